r"""RATS on FLUX.1 [dev] at 512x512, for a TPU v6e slice of 8 chips with LoRA.

    python -m rats_jax.main --config=configs/flux_tpu.py --workdir=gs://BUCKET/flux --config.prompts=FILE

As configs/flux_gpu.py, which it starts from; what differs stands here: one picture a chip, and all networks
split over the chips, which gather one layer at a time. All weights, for a v5p-32 (16 chips with 95 GB):

    ... --config.lora.rank=0 --config.batch_size=16 --config.evaluation.batch_size=16 \
        --config.optimizer.learning_rate=1e-5 --config.mesh.fsdp=16

What `python -m rats_jax.compile --config=configs/flux_tpu.py --topology=v6e:2x4` says of both (docs/tpu.md):
8.5 of a chip's 32 GB, 7.2 with --config.prompt_embeds, and at least 4 seconds an update; all weights on 16
chips of a v5p 18.5 of 95 GB, and at least 3.3 seconds. Seconds are estimates.
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
    return config
