r"""RATS on all weights of Stable Diffusion 3.5 medium at 512x512, for a TPU v5e slice of 16 chips.

    python -m rats_jax.main --config=configs/sd3_tpu.py --workdir=gs://BUCKET/sd3 --config.prompts=FILE

As configs/sd3_gpu.py, which it starts from; what differs stands here: one picture a chip, and state,
teacher and text encoders split over the chips. What `python -m rats_jax.compile --config=configs/sd3_tpu.py
--topology=v5e:4x4` says of it with --config.prompt_embeds (docs/tpu.md): 5.7 of a chip's 16 GB, and at least
1.6 seconds an update, which is an estimate.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("sd3_gpu.py"))
    config.batch_size = 16
    config.optimizer.accumulation_steps = 1
    config.optimizer.learning_rate = 1e-5
    config.lora.rank = 0
    config.evaluation.batch_size = 16
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
