"""What shaping and its gate are worth on the FLUX in miniature, whose pictures few steps break.

    python -m rats_jax.ablate --config=configs/scenes_ablation.py --workdir=runs/scenes_ablation

Runs at full length, ten seeds each, of a frozen teacher, whose targets they share. They climb one reward, not
the two of the main job.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the comparison."""
    config = load_config(Path(__file__).with_name("emoji_ablation.py"))
    config.base = load_config(Path(__file__).with_name("scenes_cpu.py"))
    del config.base.rewards.counting
    config.base.teacher.ema_decay = 1.0
    config.base.checkpoint.every = config.base.num_updates
    config.base.checkpoint.keep = 1
    config.base.samples.every = 0
    config.base.evaluation.num_prompts = 0

    config.student_steps = (4,)
    config.seeds = tuple(range(100, 110))  # none chose a setting but the constants
    config.variants = (
        ("RATS", {}),
        ("constant gate, its mean", {"gate.kind": "constant", "gate.value": 0.28}),
        ("constant gate, its end", {"gate.kind": "constant", "gate.value": 0.16}),
        ("reward-only", {"gate.kind": "constant", "gate.value": 0.0}),
        ("static distillation", {"reward_weight": 0.0, "gate.kind": "constant", "gate.value": 1.0}),
    )

    unseen = "assets/scenes/heldout_prompts.txt"
    steps = (3, 5, 8)
    config.evaluation.prompts = (("training", ""), ("unseen", unseen))
    config.evaluation.prompts += tuple((f"training, drawn with {n} steps", "", n) for n in steps)
    config.evaluation.num_prompts = 128
    config.evaluation.num_seeds = 2
    return config
