r"""RATS on Stable Diffusion 1.5 at 512x512, for one node of eight GPUs with 40 GB or more.

    python -m rats_jax.main --config=configs/sd_gpu.py --workdir=runs/sd --config.prompts=FILE

As configs/sd_tpu.py, which it starts from; what differs stands here. Several nodes under SLURM, each of them
with a copy of the weights:

    sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sbatch configs/sd_gpu.py runs/sd \
        --config.mesh.dcn_data=4 --config.batch_size=64 --config.evaluation.batch_size=64

LoRA, of two samples at a time on a card with 12 GB: --config.lora.rank=32
--config.optimizer.learning_rate=1e-4 --config.batch_size=2 --config.evaluation.batch_size=2. What
`python -m rats_jax.compile --config=configs/sd_gpu.py --topology=h100:8` and others say: docs/tpu.md.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("sd_tpu.py"))
    config.batch_size = 16
    config.evaluation.batch_size = 16
    config.decoder_parts = 2
    config.reward_parts = 2
    return config
