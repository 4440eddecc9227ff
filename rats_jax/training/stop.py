"""Stop of a run from outside: SIGTERM, which is how a machine is taken away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import jax
import orbax.checkpoint as ocp


@contextmanager
def watch_for_stop(manager: ocp.CheckpointManager) -> Iterator[Callable[[int], bool]]:
    """Turn SIGTERM into something that can be asked between updates; a second one ends the process at once.

    Args:
        manager: of the checkpoints; of several processes, it tells them all at the same update.

    Yields:
        step -> whether the run is to end after that update.
    """
    if jax.process_count() > 1:  # jax listens for the signal itself
        yield manager.reached_preemption
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        asked.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda step: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
