"""How programs are compiled, and kept: a second start of the same job loads what the first compiled."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

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


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Give XLA's options for the devices of a mesh.

    On a CPU, operations are not handed to YNNPACK: reading a compiled program back takes several times as
    long with it, and the program is slower (docs/performance.md).
    """
    return _cpu_options() if mesh.devices.flat[0].platform == "cpu" else {}


@functools.cache
def _cpu_options() -> dict[str, str]:
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(jnp.negative, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA, which has no such option
        return {}
    return options
