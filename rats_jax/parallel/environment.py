"""Environment variables that JAX and the hub read: one that is wrong is one line that names it."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
from typing import NoReturn

from rats_jax.errors import ConfigError, expect, reason_of

GPU_MEMORY_SHARE = 0.9
"""Of a GPU's memory, that jax takes where `_MEMORY_SHARES` say nothing; its own default is 0.75."""
_MEMORY_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_ON_OFF = {"", "0", "1", "true", "false", "yes", "no", "on", "off"}
# What fails to read a variable fails while it is imported.
_READERS = {"jax": "JAX_", "huggingface_hub.constants": "HF_", "tqdm": "TQDM_"}
# In the order in which they choose the devices.
_CHOOSING = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES")
# From jaxlib 0.10.2 on XLA hands sums to YNNPACK on a CPU, which reads memory that nobody wrote where a
# factor is a broadcast array: under jit sum((x @ full_like(x, 0.3)) * x) is NaN, or 1e36. The newest jaxlib,
# 0.12.0.1, has it still.
_WRONG_SUMS = ((0, 10, 2), (0, 13))
_LIBRARY_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_RIGHT_SUMS = f"--{_LIBRARY_FLAG}=-reduce"
# XLA reads its flags once, and ends the process where it cannot.
_READ_XLA_FLAGS = "from jaxlib import xla_client; xla_client.CompileOptions()"


def open_environment() -> None:
    """Check variables, keep compiled programs and find the devices, of a command that is one process.

    Raises:
        ConfigError: as `check_variables`, `keep_compiled` and `check_devices`.
    """
    check_variables()
    from rats_jax.parallel.cache import keep_compiled

    keep_compiled()
    check_devices()


def leave_out_wrong_sums() -> None:
    """Have XLA compute sums on a CPU itself where those of its library are wrong, unless XLA_FLAGS choose.

    Changes XLA_FLAGS, which XLA reads once, when jax is first used: `import rats_jax` calls it. The name of a
    file of flags, which XLA_FLAGS may be, stays as it is.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    is_file = bool(flags) and not flags.startswith("-")
    version = tuple(map(int, re.findall(r"\d+", importlib.metadata.version("jaxlib"))[:3]))
    first, fixed = _WRONG_SUMS
    if first <= version < fixed and _LIBRARY_FLAG not in flags and not is_file:
        os.environ["XLA_FLAGS"] = f"{flags} {_RIGHT_SUMS}".strip()


@functools.cache
def check_sums() -> None:
    """Compute such a sum, where jax computes on a CPU.

    Raises:
        ConfigError: it is wrong: jax was used before `import rats_jax`, or XLA_FLAGS choose the library.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    if jax.default_backend() != "cpu":
        return
    x = np.ones((5, 60, 60), np.float32)
    found = jax.jit(lambda x, c: jnp.sum((x @ jnp.broadcast_to(c, x.shape)) * x))(x, np.float32(0.5))
    wanted = "right sums on a CPU, which this version needs a flag for: import rats_jax before jax is used"
    expect(
        float(found) == x.size * 30,
        "jaxlib",
        importlib.metadata.version("jaxlib"),
        f"{wanted} (in a notebook, restart the kernel), or start with XLA_FLAGS={_RIGHT_SUMS}",
    )


def check_variables() -> None:
    """Check all that is read when jax is imported, and import it; no device is used yet.

    Where torch is installed, transformers 4 would import it beside a tokenizer, and tensorboardX, which takes
    seconds and serves no command: USE_TORCH=0 leaves it out, unless the variable is set. Of a GPU's memory
    jax may take `GPU_MEMORY_SHARE`, unless XLA_CLIENT_MEM_FRACTION is set.

    Raises:
        ConfigError: names the variable and its value.
    """
    os.environ.setdefault("USE_TORCH", "0")
    _check_memory_share()
    for name in _SWITCHES:
        value = os.environ.get(name, "")
        expect(value.lower() in _ON_OFF, name, value, "1 or 0")
    devices = os.environ.get("JAX_NUM_CPU_DEVICES", "-1")
    expect(devices == "-1" or _is_count(devices), "JAX_NUM_CPU_DEVICES", devices, "a number >= 1")
    flags = os.environ.get("XLA_FLAGS", "").replace(_RIGHT_SUMS, "").strip()
    if flags and sys.executable:
        _check_xla_flags(flags)
    for module, prefix in _READERS.items():
        try:
            importlib.import_module(module)
        except (ValueError, TypeError) as error:
            given = [name for name in sorted(os.environ) if name.startswith(prefix)]
            found = [name for name in given if _is_named(name, error)]
            _refuse(error, found, f"what {module} reads of {prefix}...")


def check_devices() -> None:
    """Find the devices, which all that computes needs; call it once other processes are joined.

    Raises:
        ConfigError: the platform that the environment asks for is not here, or none is; as `check_sums`.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        _refuse(error, [name for name in _CHOOSING if os.environ.get(name)][:1], "a platform that is here")
    check_sums()


def _check_memory_share() -> None:
    new, old = _MEMORY_SHARES
    given = {name: os.environ[name] for name in _MEMORY_SHARES if os.environ.get(name)}
    for name, value in given.items():
        expect(_is_positive(value), name, value, "a share of a GPU's memory, as 0.9")
    expect(len(given) < 2, old, given.get(old), f"none beside {new}")
    if not given:
        os.environ[new] = str(GPU_MEMORY_SHARE)


def _check_xla_flags(value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _READ_XLA_FLAGS], capture_output=True, text=True, errors="replace", check=False
    )
    lines = re.findall(r"^[EF]\d+ .*?\] (.*)", done.stderr, flags=re.MULTILINE)
    expect(done.returncode == 0 or not lines, "XLA_FLAGS", value, f"flags of XLA ({''.join(lines[:1])})")


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _is_count(text: str) -> bool:
    return text.isdecimal() and int(text) >= 1


def _is_named(name: str, error: Exception) -> bool:
    """Tell whether an error is about a variable, by its name or by its value in quotes."""
    value = os.environ[name]
    return any(part in str(error) for part in (name, name.lower(), f"'{value}'", f'"{value}"'))


def _refuse(error: Exception, names: list[str], expected: str) -> NoReturn:
    given = ", ".join(f"{name}={os.environ[name]!r}" for name in names) or "environment"
    raise ConfigError(f"{given}: expected {expected} ({reason_of(error)})") from None


def count_cores() -> int:
    """Count the cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
