r"""RATS on FLUX.1 [dev] at 512x512 with LoRA, for a TPU v6e slice of 8 chips (v6e-8).

    python -m rats_jax.main --config=configs/flux_tpu.py --workdir=gs://BUCKET/flux --config.prompts=FILE

As configs/flux_gpu.py, which it starts from; what differs stands here: one picture a chip, and a copy of the
base on each chip; the other networks are split. All weights: configs/flux_full_tpu.py.

What `python -m rats_jax.compile --config=configs/flux_tpu.py --topology=v6e:2x4` says of it: docs/tpu.md.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("flux_gpu.py"))
    config.optimizer.accumulation_steps = 1
    config.evaluation.batch_size = 8
    config.mesh.data = 1
    config.mesh.fsdp = -1
    # 23.8 GB of each chip, which would else be gathered at each of 54 steps.
    config.sharding = (("^base/", "copy"), *config.sharding)
    return config
