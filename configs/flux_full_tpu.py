r"""RATS on all weights of FLUX.1 [dev] at 512x512, for a TPU v5p slice of 16 chips (v5p-32).

    python -m rats_jax.main --config=configs/flux_full_tpu.py --workdir=gs://BUCKET/flux --config.prompts=FILE

As configs/flux_gpu.py, which it starts from; what differs stands here: one picture a chip, all weights
trained, and all networks split over the chips, which gather one layer at a time.

What `python -m rats_jax.compile --config=configs/flux_full_tpu.py --topology=v5p:2x2x4` says of it with
--config.prompt_embeds (docs/tpu.md): 18.7 of a chip's 95 GB, and at least 3.3 seconds an update, which is an
estimate.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("flux_gpu.py"))
    config.batch_size = 16
    config.optimizer.accumulation_steps = 1
    config.optimizer.learning_rate = 1e-5
    config.lora.rank = 0
    config.evaluation.batch_size = 16
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
