"""The work directory of a run that has ended, without the run."""

import jax.numpy as jnp

from rats_jax.types import TrainState
from rats_jax.workdir import checkpoint, saved_config


def write_run(workdir, config, student, *, steps=(4,)):
    """Write config.json and checkpoints of one student; `student` is a tree of NumPy arrays."""
    workdir.mkdir(parents=True)
    (workdir / saved_config.FILE).write_text(saved_config.to_json(config))
    with checkpoint.open_manager(workdir / "checkpoints", keep=9, every=1) as manager:
        for step in steps:
            moments = {"mu": student}
            state = TrainState(jnp.int32(step), student, {}, moments, (jnp.zeros(()),), {})
            checkpoint.save_now(manager, step, state, {})
    return workdir
