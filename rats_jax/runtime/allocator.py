"""The C library's allocator, for XLA's CPU backend; nothing is done where the library is not glibc.

An operation frees its buffers when it is done, and the next one allocates as many. By default glibc gives
large ones back to the kernel, which clears every page before it hands it out again: docs/performance.md has
what that costs. Threads have arenas of their own, which are given back whatever the thresholds say.
"""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def limit_arenas(count: int) -> None:
    """Let threads that are still to come share `count` arenas; 0 is glibc's own choice."""
    _set(_ARENA_MAX, count)


def keep_freed_memory() -> None:
    """Let glibc keep the memory that is freed."""
    _set(_TRIM_THRESHOLD, 2**31 - 1)
    _set(_MMAP_THRESHOLD, 2**30)


def _set(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(parameter, value)
