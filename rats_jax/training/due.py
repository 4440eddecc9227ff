"""Due dates of a run: after which updates it logs, draws a sheet of samples and saves."""

from __future__ import annotations

from typing import Any, NamedTuple


class Due(NamedTuple):
    """What follows an update.

    Attributes:
        starts: the first sheet, of the untrained student, which waits for the first update.
        draws: a sheet of samples.
        saves: a checkpoint.
    """

    starts: bool
    draws: bool
    saves: bool


def find_due(config: Any, step: int) -> Due:
    """Find what is due after `step` updates.

    Args:
        config: fields as in configs/default.py.
        step: updates made, >= 1.

    Returns:
        What is due; a sheet is saved with the student that drew it, and the last update always.
    """
    every, last = config.samples.every, step == config.num_updates
    draws = every > 0 and (last or step % every == 0)
    return Due(
        starts=every > 0 and step == 1,
        draws=draws,
        saves=draws or last or step % config.checkpoint.every == 0,
    )


def is_logged(config: Any, step: int) -> bool:
    """Tell whether the metrics of an update are written: every `log_every`, and those of the last one."""
    return step % config.log_every == 0 or step == config.num_updates
