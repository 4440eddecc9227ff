"""RATS on the embedded FLUX in miniature, whose pictures few steps break, sized for two CPU cores.

python -m rats_jax.main --config=configs/scenes_cpu.py --workdir=runs/scenes
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("default.py"))
    config.num_updates = 320
    config.batch_size = 16

    config.pretrained = "assets/scenes/pipeline"
    config.height = 32
    config.width = 32
    config.prompts = "assets/scenes/prompts.txt"
    config.heldout_prompts = "assets/scenes/heldout_prompts.txt"
    config.rewards.pickscore_scenes = ConfigDict(
        {"kind": "pickscore", "path": "assets/scenes/reward", "weight": 0.1}
    )
    # The reward above hardly sees one thing too many; this one counts. It is not the judge of accuracy, nor
    # has it seen what the judge has.
    config.rewards.counting = ConfigDict(
        {"kind": "detector_likelihood", "path": "assets/scenes/counting_reward", "weight": 0.5}
    )
    # A rendered scene of these prompts earns 2.7, of two things 2.6: what a picture earns beyond that is no
    # better to look at.
    config.reward_loss.kind = "hinge"
    config.reward_loss.margin = 2.6
    config.monitor.heldout = ConfigDict({"kind": "pickscore", "path": "assets/scenes/heldout_reward"})
    config.monitor.accuracy = ConfigDict({"kind": "detector", "path": "assets/scenes/judge"})
    config.heldout_reward = "heldout"

    config.student.num_steps = 4
    config.student.reward_gradient_steps = 4
    config.student.guidance_scale = 5.0
    config.student.ema_decay = 0.995
    config.teacher.num_steps = 50
    config.teacher.guidance_scale = 5.0
    config.teacher.ema_decay = 0.995
    config.horizon.weights = (0.1, 0.2, 0.3, 0.4)
    config.shaping_weight = 16.0
    config.gate.temperature = 0.1
    config.optimizer.learning_rate = 5e-4
    config.optimizer.decay_updates = 320
    return config
