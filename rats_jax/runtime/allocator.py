"""The C library's allocator, for XLA's CPU backend."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h: (parameter, value).
_TRIM_THRESHOLD = (-1, 2**31 - 1)
_MMAP_THRESHOLD = (-3, 2**30)
_ARENA_MAX = (-8, 1)


def keep_freed_memory() -> None:
    """Let glibc keep the memory that XLA frees; does nothing where the C library is another one.

    An operation frees its buffers when it is done, and the next one allocates as many. By default glibc gives
    large ones back to the kernel, which clears every page before it hands it out again: docs/performance.md
    has what that costs. Memory of threads with arenas of their own is given back whatever the thresholds say,
    so there is one arena. Call it before any array is made.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in (_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX):
        mallopt(parameter, value)
