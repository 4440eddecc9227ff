"""What a cheaper teacher costs and gains, on the embedded text-to-emoji model.

    python -m rats_jax.ablate --config=configs/emoji_teachers.py --workdir=runs/teachers --jobs=2

The embedded default, with 150 updates, against a second-order teacher of fewer steps and against targets that
are used again: at as many updates and at as much time.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the comparison."""
    config = load_config(Path(__file__).with_name("emoji_ablation.py"))
    config.base.num_updates = 150
    config.base.optimizer.decay_updates = 150
    config.base.optimizer.learning_rate = 1e-4
    config.base.checkpoint.every = 1000

    second_order = {"teacher.sampler": "dpmpp_2m", "teacher.num_steps": 20}
    reused = {"teacher.reuse_after": 50}
    # Updates that take as long as 150 of the first variant, by docs/performance.md: one of the second takes
    # 0.58 of its time, one with targets at hand 0.27.
    longer = {"num_updates": 258, "optimizer.decay_updates": 258}
    longest = {"num_updates": 424, "optimizer.decay_updates": 424}
    of_100 = {"teacher.reuse_after": 100, "num_updates": 287, "optimizer.decay_updates": 287}
    config.student_steps = (4,)
    config.variants = (
        ("50 DDIM steps", {}),
        ("20 steps of DPM-Solver++", second_order),
        ("targets of 50 updates reused", reused),
        ("targets of 50 updates reused, equal time", reused | longest),
        ("targets of 100 updates reused, equal time", of_100),
        ("DPM-Solver++, equal time", second_order | longer),
    )
    return config
