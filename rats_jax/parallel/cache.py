"""Cache of compiled programs for the next start, and tracing without garbage collections."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import jax

_MAX_BYTES = 8 * 2**30


def keep_compiled() -> None:
    """Keep compiled programs in `$XDG_CACHE_HOME/rats_jax`, else `~/.cache/rats_jax`, up to 8 GiB.

    JAX_COMPILATION_CACHE_DIR, if it is set, names another folder, or none if it is empty.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(home / "rats_jax"))
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Trace without garbage collections: they would go again and again over a program that only grows."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
