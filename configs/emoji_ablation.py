"""The comparison that the method stands on, on the embedded text-to-emoji model.

    python -m rats_jax.ablate --config=configs/emoji_ablation.py --workdir=runs/ablation --jobs=2

Every variant is trained with every number of student steps and every seed, from the same prompts and noise.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the comparison."""
    config = ConfigDict()
    # What all runs have in common, as of `python -m rats_jax.main`: the embedded default with fewer updates.
    config.base = load_config(Path(__file__).with_name("emoji_cpu.py"))
    config.base.num_updates = 80
    config.base.optimizer.decay_updates = 80
    config.base.optimizer.learning_rate = 5e-5
    config.base.checkpoint.every = 80
    config.base.checkpoint.keep = 1
    config.base.samples.every = 0
    config.base.evaluation.num_prompts = 0
    # The reward's gradient flows through all steps: a variant's number is cut to its student's steps.
    config.base.student.reward_gradient_steps = 8

    # Student steps and seeds; every variant runs with all of them.
    config.student_steps = (3, 5, 8)
    config.seeds = (0, 1, 2)

    # (name, fields that differ from `base`), and student steps if not all; the first one is what the others
    # are compared with. With 5 steps every noise level of the student is one of the teacher's 50: there is
    # nothing to interpolate, and the run would be that of RATS.
    config.variants = (
        ("RATS", {}),
        ("static distillation", {"reward_weight": 0.0, "gate.kind": "constant", "gate.value": 1.0}),
        ("reward-only", {"gate.kind": "constant", "gate.value": 0.0}),
        (
            "moving teacher",
            {"teacher.ema_decay": 0.99, "teacher.mixed_guidance_reason": "its share of the student is small"},
        ),
        ("no interpolation", {"horizon.interpolation": "nearest"}, (3, 8)),
        ("reward gradient: last step", {"student.reward_gradient_steps": 1}),
        ("reward gradient: last 2 steps", {"student.reward_gradient_steps": 2}),
        ("tau 0.1", {"gate.temperature": 0.1}),
        ("tau 10", {"gate.temperature": 10.0}),
    )

    config.evaluation = ConfigDict()
    # Sets of prompts on which every student, the untrained model and the teacher are compared: (title, file),
    # '' for the prompts of the run; (title, file, steps) draws all but the teacher with other steps than
    # they were trained with.
    config.evaluation.prompts = (("training", ""),)
    # Prompts of each set, and pictures of each prompt; of two and more their diversity is measured.
    config.evaluation.num_prompts = 256
    config.evaluation.num_seeds = 1
    config.evaluation.seed = 4321
    # Pictures at once.
    config.evaluation.batch_size = 32
    # Resamples of the bootstrap.
    config.evaluation.num_resamples = 10000
    return config
