"""What a teacher that follows its student is worth on the FLUX in miniature.

    python -m rats_jax.ablate --config=configs/scenes_teachers.py --workdir=runs/scenes_teachers --jobs=2

Prompts, seeds and measures are those of scenes_ablation.py.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the comparison."""
    config = load_config(Path(__file__).with_name("scenes_ablation.py"))
    config.variants = (
        ("frozen teacher", {}),
        ("moving teacher", {"teacher.ema_decay": 0.995}),  # of the main job
    )
    return config
