"""RATS on the embedded text-to-emoji model, sized for two CPU cores.

python -m rats_jax.main --config=configs/emoji_cpu.py --workdir=runs/emoji
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("default.py"))
    config.num_updates = 250
    config.batch_size = 8

    config.pretrained = "assets/emoji/pipeline"
    config.prompts = "assets/emoji/prompts.txt"
    config.reference = "assets/emoji/reference.npz"
    config.rewards.pickscore_emoji = ConfigDict(
        {"kind": "pickscore", "path": "assets/emoji/reward", "weight": 0.1}
    )
    config.rewards.compressibility = ConfigDict({"kind": "compressibility_proxy", "path": "", "weight": 0.2})
    config.monitor.heldout = ConfigDict({"kind": "pickscore", "path": "assets/emoji/heldout_reward"})
    config.heldout_reward = "heldout"

    config.student.num_steps = 4
    config.student.guidance_scale = 1.0
    config.teacher.num_steps = 50
    config.teacher.guidance_scale = 1.5
    config.teacher.ema_decay = 1.0
    config.gate.relative = True
    config.gate.temperature = 1.0
    config.optimizer.learning_rate = 1e-4
    config.optimizer.decay_updates = 250
    return config
