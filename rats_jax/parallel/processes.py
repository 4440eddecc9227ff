"""Several processes as one run: on a TPU pod, under SLURM, or with addresses from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from rats_jax.errors import ConfigError

_VARIABLES = ("RATS_COORDINATOR", "RATS_NUM_PROCESSES", "RATS_PROCESS_ID")


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of the run, before any device is used; one process by itself does nothing.

    With RATS_COORDINATOR (host:port of process 0), RATS_NUM_PROCESSES and RATS_PROCESS_ID set, these decide.
    Else jax finds the others by itself under SLURM, if the job has several tasks, and on a TPU.

    Args:
        environment: variables by name.

    Raises:
        ConfigError: only some of the three variables are set, or they hold no process of that many.
    """
    given = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    if given:
        jax.distributed.initialize(*parse_processes(given))
    elif int(environment.get("SLURM_NTASKS", "1")) > 1 or _is_tpu(environment):
        jax.distributed.initialize()


def parse_processes(given: Mapping[str, str]) -> tuple[str, int, int]:
    """Read (address of process 0, number of processes, number of this one) from the three variables."""
    missing = [name for name in _VARIABLES if name not in given]
    if missing:
        raise ConfigError(f"{missing[0]} is not set: expected all of {', '.join(_VARIABLES)}, or none")
    numbers = []
    for name in _VARIABLES[1:]:
        if not given[name].isdigit():
            raise ConfigError(f"{name}={given[name]!r}: expected a number")
        numbers.append(int(given[name]))
    count, index = numbers
    if not 0 <= index < count:
        raise ConfigError(
            f"RATS_PROCESS_ID={index}: expected from 0 to {count - 1}, one less than the number"
        )
    host, _, port = given["RATS_COORDINATOR"].rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"RATS_COORDINATOR={given['RATS_COORDINATOR']!r}: expected host:port")
    return given["RATS_COORDINATOR"], count, index


def agree(flag: bool) -> bool:
    """Let process 0 decide for all."""
    return bool(multihost_utils.broadcast_one_to_all(flag)) if jax.process_count() > 1 else flag


def everywhere(flag: bool) -> bool:
    """Tell whether it holds in every process."""
    return bool(multihost_utils.process_allgather(flag).all()) if jax.process_count() > 1 else flag


def wait(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _is_tpu(environment: Mapping[str, str]) -> bool:
    """Tell a TPU machine by its devices; JAX_PLATFORMS may say that they are not wanted."""
    wanted = environment.get("JAX_PLATFORMS", "tpu")
    devices = any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    return "tpu" in wanted and devices and find_spec("libtpu") is not None
