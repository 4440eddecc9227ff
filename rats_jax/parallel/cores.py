"""The cores of a processor as devices, where there is no accelerator.

XLA's CPU backend cuts every operation into parts for the cores and waits for the last one. A batch that is
split over the cores waits once an update: docs/performance.md has what that is worth.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from jax.extend import backend

from rats_jax.parallel.environment import count_cores
from rats_jax.parallel.mesh import AXES, DATA_PARALLEL


def use_cores_as_devices(batch_sizes: Iterable[int], mesh: Mapping[str, int] = DATA_PARALLEL) -> None:
    """Make JAX see as many CPU devices as there are cores, as far as a mesh and its batches can use them.

    Does nothing with an accelerator. With several processes, and where XLA_FLAGS or JAX_NUM_CPU_DEVICES say
    how many devices there are, their number stays. Call it before any array is made.

    Args:
        batch_sizes: of all batches that will be split.
        mesh: as in a config.
    """
    if jax.default_backend() != "cpu":
        return
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or "JAX_NUM_CPU_DEVICES" in os.environ or jax.process_count() > 1:
        return
    cores = count_cores()
    devices = most_devices(cores, batch_sizes, mesh)
    if devices == 1:
        return
    backend.clear_backends()
    jax.config.update("jax_num_cpu_devices", devices)
    # The threads that XLA lets all devices share, besides the one of each.
    os.environ["NPROC"] = str(cores // devices)


def use_cores_of(config: Any) -> None:
    """Make the cores devices for a run, whose config has fields as in configs/default.py."""
    part = config.batch_size // config.optimizer.accumulation_steps
    use_cores_as_devices((part, config.evaluation.batch_size), config.mesh)


def most_devices(cores: int, batch_sizes: Iterable[int], mesh: Mapping[str, int]) -> int:
    """Find the largest number of devices, at most `cores`, that a mesh takes and that divides its batches.

    Args: as of `use_cores_as_devices`.

    Returns:
        At least 1, also where nothing fits: the mesh then says what is wrong.
    """
    sizes = [mesh[axis] for axis in AXES]  # one process is one slice
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 not in sizes:
        return fixed if fixed <= cores else 1
    common = math.gcd(*batch_sizes)
    for devices in range(cores - cores % fixed, 0, -fixed):
        if common % (devices // max(mesh["tensor"], 1)) == 0:
            return devices
    return 1
