"""Batches: rows of one size, the last one filled up, and rounds that come again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def filled_batches(count: int, size: int) -> Iterator[tuple[np.ndarray, slice]]:
    """Cut rows into batches of one size, so that one compiled program serves all of them.

    Args:
        count: N rows, at least 1.
        size: of a batch.

    Yields:
        Indices [size] into the rows, the last batch filled up from the first row on, and the slice of a batch
        that is no filling.
    """
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count, slice(min(size, count - start))


def map_batches(function: Callable[[np.ndarray], Any], rows: np.ndarray, size: int) -> np.ndarray:
    """Apply a function of a batch [size, ...] to all rows [N, ...], cut as by `filled_batches`: [N, ...]."""
    batches = filled_batches(len(rows), size)
    return np.concatenate([np.asarray(function(rows[places]))[kept] for places, kept in batches])


class Rounds:
    """The batches of a run by update: those of a stream, or its first ones again and again.

    Args:
        stream: of batches.
        length: batches of a round; 0 never begins again.
        num_updates: of the run; no more are taken from the stream for a round.
    """

    def __init__(self, stream: Iterator[np.ndarray], *, length: int, num_updates: int):
        self._stream, self._length = stream, length
        self._round = [next(stream) for _ in range(min(length, num_updates))]

    def origin(self, step: int) -> int:
        """Give the first update with the prompts and noise of the one after `step` updates."""
        return step % self._length if self._length else step

    def take(self, step: int) -> np.ndarray:
        """Give the indices of the batch after `step` updates, [B] int64; once for each update, in order."""
        return self._round[self.origin(step)] if self._length else next(self._stream)
