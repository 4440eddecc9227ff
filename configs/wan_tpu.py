r"""RATS on all weights of Wan2.1 text-to-video 1.3B, 17 frames of 256x256, for a TPU v6e slice of 16 chips.

    python -m rats_jax.main --config=configs/wan_tpu.py --workdir=gs://BUCKET/wan --config.prompts=FILE

As configs/wan_gpu.py, which it starts from; what differs stands here: one video a chip, all weights trained,
and a copy of the base on each chip; the other networks and the state are split.

`python -m rats_jax.compile --config=configs/wan_tpu.py --topology=v6e:4x4` says what a chip needs.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("wan_gpu.py"))
    config.batch_size = 16
    config.optimizer.accumulation_steps = 1
    config.evaluation.batch_size = 16
    config.optimizer.learning_rate = 1e-5
    config.lora.rank = 0
    config.mesh.data = 1
    config.mesh.fsdp = -1
    # 2.8 GB in bfloat16, which would else be gathered for each of 55 steps.
    config.sharding = (("^base/", "copy"), *config.sharding)
    return config
