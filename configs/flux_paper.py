r"""The FLUX.1 [dev] run of the RATS paper, as far as it is known.

    python -m rats_jax.main --config=configs/flux_paper.py --workdir=runs/paper --config.prompts=FILE

Published (arXiv 2604.14910 and its project page): FLUX.1 [dev]; students of 3, 5 and 8 steps, a teacher of
50; both start from the same noise; HPS, PickScore and ImageReward are reported; bfloat16, one picture a
device, 8 of them accumulated; 400 reported steps of 7.57 seconds with 67.67 GB.

Inferred, from the curves of rewards and from the FLOPs of the table (docs/flux.md): pictures of 512x512 or
less; the trained reward is HPSv2.1; the 400 reported steps are single pictures, so 50 updates; the teacher
hardly moves, if at all; a temperature of 0.02 to 0.05 of HPS lets the gate fall from about .9 to .15 over a
run.

Not published, and ours: LoRA in place of whatever was trained, learning rate, weights of the losses, the
EMA's decay, weights of the horizons, prompts. Other steps: --config.student.num_steps=3
--config.student.reward_gradient_steps=3, and 8 likewise.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("flux_gpu.py"))
    config.student.num_steps = 5
    config.student.reward_gradient_steps = 5
    config.num_updates = 50
    config.optimizer.decay_updates = 50
    config.optimizer.warmup_updates = 5
    config.teacher.ema_decay = 0.995
    config.checkpoint.every = 10
    config.samples.every = 10
    return config
