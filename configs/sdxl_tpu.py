r"""RATS on Stable Diffusion XL at 1024x1024, for a TPU v5p slice of 16 chips.

    python -m rats_jax.main --config=configs/sdxl_tpu.py --workdir=gs://BUCKET/sdxl --config.prompts=FILE

As configs/sd_tpu.py, which it starts from; what differs stands here. LoRA:

    ... --config.lora.rank=32 --config.optimizer.learning_rate=1e-4

What an update of it needs: docs/tpu.md.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("sd_tpu.py"))
    config.pretrained = "stabilityai/stable-diffusion-xl-base-1.0"
    config.teacher.guidance_scale = 5.0
    return config
