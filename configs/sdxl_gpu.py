r"""RATS on Stable Diffusion XL at 1024x1024 with LoRA, for one GPU with 24 GB or more.

    python -m rats_jax.main --config=configs/sdxl_gpu.py --workdir=runs/sdxl --config.prompts=FILE

As configs/sdxl_tpu.py, which it starts from; what differs stands here: adapters in place of all weights, and
8 pictures an update, one after another. By its program (docs/tpu.md) an update lays out 15.0 GB and takes an
RTX 4090 38 seconds at least. On a larger card four pictures at a time:
--config.optimizer.accumulation_steps=2. Nobody has run it with the published weights.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("sdxl_tpu.py"))
    config.batch_size = 8
    config.optimizer.accumulation_steps = 8
    config.optimizer.learning_rate = 1e-4
    config.lora.rank = 32
    config.evaluation.batch_size = 4
    return config
