"""Stop of a run from outside: SIGTERM, which is how a machine is taken away, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import jax
import orbax.checkpoint as ocp

_SAVING = b"\nit ends after this update, which is saved; Ctrl-C once more ends it at once\n"


@contextmanager
def watch_for_stop(manager: ocp.CheckpointManager) -> Iterator[Callable[[int], bool]]:
    """Turn SIGTERM and Ctrl-C into something that can be asked between updates; a second one ends it at once.

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
    asked, before = threading.Event(), {}

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        asked.set()
        give_back()
        if number == signal.SIGINT:  # print may be what was interrupted
            os.write(2, _SAVING)

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before[signal.SIGTERM] = signal.signal(signal.SIGTERM, ask)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, or somebody's own
        before[signal.SIGINT] = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda step: asked.is_set()
    finally:
        give_back()
