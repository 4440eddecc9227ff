"""Several processes as one run: on a TPU pod, under SLURM, or with addresses from the environment."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from rats_jax.errors import ConfigError, DivergedError, HackingError, StoppedError, expect, reason_of

_VARIABLES = ("RATS_COORDINATOR", "RATS_NUM_PROCESSES", "RATS_PROCESS_ID")
_PATIENCE = 20.0  # seconds in which the others come to the end, too, if they do
_RANK, _NODES = "SLURM_PROCID", "SLURM_STEP_NODELIST"
# All that jax reads of SLURM: https://docs.jax.dev/en/latest/multi_process.html.
_SLURM = ("SLURM_JOB_ID", "SLURM_NTASKS", _RANK, "SLURM_LOCALID", _NODES)


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of the run, before any device is used; one process by itself does nothing.

    With RATS_COORDINATOR (host:port of process 0), RATS_NUM_PROCESSES and RATS_PROCESS_ID set, these decide.
    Else jax finds the others by itself under SLURM, if the job has several tasks, and on a TPU.

    Args:
        environment: variables by name.

    Raises:
        ConfigError: only some of the three variables are set, or they hold no process of that many; the same
            of SLURM's; or the others are not found.
    """
    given = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    if not (given or _is_slurm(environment) or _is_tpu(environment)):
        return
    arguments = parse_processes(given) if given else None
    try:
        if arguments is None:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(*arguments)
    except (RuntimeError, ValueError, OSError) as error:
        names = [name for name in (*_VARIABLES, *_SLURM, "JAX_LOCAL_DEVICE_IDS") if environment.get(name)]
        said = ", ".join(f"{name}={environment[name]!r}" for name in names) or "this TPU"
        raise ConfigError(f"{said}: expected to find the other processes ({reason_of(error)})") from None


def parse_processes(given: Mapping[str, str]) -> tuple[str, int, int]:
    """Read (address of process 0, number of processes, number of this one) from the three variables."""
    missing = [name for name in _VARIABLES if name not in given]
    if missing:
        raise ConfigError(f"{missing[0]} is not set: expected all of {', '.join(_VARIABLES)}, or none")
    numbers = []
    for name in _VARIABLES[1:]:
        if not given[name].isdecimal():
            raise ConfigError(f"{name}={given[name]!r}: expected a number")
        numbers.append(int(given[name]))
    count, index = numbers
    if not 0 <= index < count:
        raise ConfigError(
            f"RATS_PROCESS_ID={index}: expected from 0 to {count - 1}, one less than the number"
        )
    host, _, port = given["RATS_COORDINATOR"].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"RATS_COORDINATOR={given['RATS_COORDINATOR']!r}: expected host:port")
    return given["RATS_COORDINATOR"], count, index


def agree(flag: bool) -> bool:
    """Let process 0 decide for all."""
    return bool(multihost_utils.broadcast_one_to_all(flag)) if jax.process_count() > 1 else flag


def everywhere(flag: bool) -> bool:
    """Tell whether a flag is true in every process."""
    return bool(gather(np.asarray(flag)).all())


def gather(values: np.ndarray) -> np.ndarray:
    """Collect arrays [...] of one shape from all processes: [processes, ...]."""
    return np.asarray(multihost_utils.process_allgather(values)) if jax.process_count() > 1 else values[None]


def expect_same(texts: Mapping[str, str]) -> None:
    """Check that all processes have the same texts, of which digests are compared.

    Args:
        texts: by the field that they are of, the same fields everywhere.

    Raises:
        ConfigError: in all of them: one has another; names the field.
    """
    own = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts.values()]
    digests = gather(np.stack(own))
    for field, differs in zip(texts, (digests != digests[0]).any(axis=2).T, strict=True):
        if differs.any():
            others = np.flatnonzero(differs).tolist()
            expected = f"the same in all processes, others than the first have {others}"
            raise ConfigError(f"{field}: expected {expected}")


@contextmanager
def ending_alone() -> Iterator[None]:
    """Let a process end soon after an error of its own, with its status.

    At its end jax waits for the other processes, which wait for this one in their update: after minutes all
    abort. Errors that all processes raise together end at once, and such a wait is short.
    """
    try:
        yield
    except (StoppedError, DivergedError, HackingError):
        raise  # in all processes
    except BaseException as error:
        if jax.process_count() > 1:
            timer = threading.Timer(_PATIENCE, os._exit, [getattr(error, "status", 1)])
            timer.daemon = True
            timer.start()
        raise


def expect_shared(folder: epath.Path, field: str) -> None:
    """Check that a folder is the same one for all processes, by a file that the first one makes there.

    Raises:
        ConfigError: in all of them: one does not see it.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
    mark = folder / f"seen_by_all_{number}"
    if jax.process_index() == 0:
        mark.write_text("")
    multihost_utils.sync_global_devices("the folder is marked")
    shared = everywhere(mark.exists())
    if jax.process_index() == 0:
        mark.unlink()
    expected = f"a folder that all {jax.process_count()} processes see, on a shared disk or in a bucket"
    expect(shared, field, str(folder), expected)


def _is_slurm(environment: Mapping[str, str]) -> bool:
    """Tell whether SLURM started several processes, and check that it says what jax needs to join them.

    Raises:
        ConfigError: names the variable that is missing or wrong.
    """
    count, index = environment.get("SLURM_NTASKS") or "1", environment.get(_RANK) or "0"
    expect(count.isdecimal(), "SLURM_NTASKS", count, "a number")
    expect(index.isdecimal(), _RANK, index, "a number")
    most = max(int(count), 1) - 1
    expect(int(index) <= most, _RANK, index, f"from 0 to {most}, one less than SLURM_NTASKS")
    if most == 0:
        return False
    for name in _SLURM:
        value = environment.get(name, "")
        expect(value != "", name, value, f"what srun sets, as SLURM_NTASKS={count}: start it with srun")
        expect(name == _NODES or value.isdecimal(), name, value, "a number")
    return True


def _is_tpu(environment: Mapping[str, str]) -> bool:
    """Tell a TPU machine by its devices; JAX_PLATFORMS may say that they are not wanted."""
    wanted = environment.get("JAX_PLATFORMS", "tpu")
    devices = any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    return "tpu" in wanted and devices and find_spec("libtpu") is not None
