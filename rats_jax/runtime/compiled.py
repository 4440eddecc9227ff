"""Compiled programs are kept between starts: a second start of the same job loads what the first compiled."""

from __future__ import annotations

import os
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
