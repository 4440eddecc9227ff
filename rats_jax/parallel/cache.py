"""Cache of compiled programs for the next start, and tracing without garbage collections."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

import jax
from absl import logging
from etils import epath

from rats_jax.errors import ConfigError
from rats_jax.paths import expect_workdir

_MAX_BYTES = 8 * 2**30


def keep_compiled() -> None:
    """Keep compiled programs in `$XDG_CACHE_HOME/rats_jax`, else `~/.cache/rats_jax`, up to 8 GiB.

    JAX_COMPILATION_CACHE_DIR, if it is set, names another folder, or none if it is empty. Where there is no
    home, or it cannot be written, a warning says that none are kept.

    Raises:
        ConfigError: JAX_COMPILATION_CACHE_DIR cannot be written.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen is not None:
        if chosen:
            place = expect_workdir(chosen, "JAX_COMPILATION_CACHE_DIR")
            jax.config.update("jax_compilation_cache_dir", str(place))
        return
    variable = "XDG_CACHE_HOME" if os.environ.get("XDG_CACHE_HOME") else "HOME"
    folder = f"{os.environ['XDG_CACHE_HOME'] if variable != 'HOME' else '~/.cache'}/rats_jax"
    try:
        place = expect_workdir(folder, variable)
    except ConfigError as error:
        logging.warning("compiled programs are not kept: %s", error)
        return
    _drop_unfinished(place)
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _drop_unfinished(folder: epath.Path) -> None:
    """Remove programs whose writing was cut off: jax would read them at each start, and keep no other.

    It writes a program, `NAME-cache`, and then the time of its last use, `NAME-atime`.
    """
    for program in folder.glob("*-cache"):
        if not program.with_name(f"{program.name.removesuffix('cache')}atime").exists():
            program.unlink(missing_ok=True)


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
