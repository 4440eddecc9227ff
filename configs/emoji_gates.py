"""What shaping and its gate are worth on the embedded text-to-emoji model, at full length.

    python -m rats_jax.ablate --config=configs/emoji_gates.py --workdir=runs/emoji_gates

Ten seeds of the default job, whose teacher does not move: its targets are shared.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the comparison."""
    config = load_config(Path(__file__).with_name("emoji_ablation.py"))
    config.base = load_config(Path(__file__).with_name("emoji_cpu.py"))
    config.base.checkpoint.every = config.base.num_updates
    config.base.checkpoint.keep = 1
    config.base.samples.every = 0
    config.base.evaluation.num_prompts = 0

    config.student_steps = (4,)
    config.seeds = tuple(range(100, 110))
    config.variants = (
        ("RATS", {}),
        ("temperature of 0.1", {"gate.temperature": 0.1}),
        ("constant gate, its mean", {"gate.kind": "constant", "gate.value": 0.5}),
        ("constant gate of 1", {"gate.kind": "constant", "gate.value": 1.0}),
        ("reward-only", {"gate.kind": "constant", "gate.value": 0.0}),
        ("static distillation", {"reward_weight": 0.0, "gate.kind": "constant", "gate.value": 1.0}),
    )

    steps = (3, 5, 8)
    config.evaluation.prompts = (("training", ""),)
    config.evaluation.prompts += tuple((f"training, drawn with {n} steps", "", n) for n in steps)
    config.evaluation.num_prompts = 256
    config.evaluation.num_seeds = 2
    return config
