"""One device per core, as far as mesh and batches can use them."""

import json
import os
import subprocess
import sys

import pytest

from rats_jax.parallel.cores import most_devices
from rats_jax.parallel.environment import count_cores
from rats_jax.parallel.mesh import DATA_PARALLEL


@pytest.mark.parametrize(
    ("cores", "batches", "mesh", "expected"),
    [
        (2, (8, 32), {}, 2),
        (16, (8, 32), {}, 8),
        (6, (8, 32), {}, 4),
        (2, (7, 32), {}, 1),
        (1, (8,), {}, 1),
        (8, (4, 32), {"tensor": 2}, 8),
        (8, (8,), {"fsdp": 4}, 8),
        (6, (8,), {"fsdp": 4}, 4),
        (2, (8,), {"fsdp": 4}, 1),
        (4, (8,), {"data": 2}, 2),
        (1, (8,), {"data": 2}, 1),
        (4, (8,), {"data": 1, "fsdp": -1}, 4),
        (4, (8,), {"data": 1, "dcn_data": -1}, 1),
    ],
)
def test_as_many_as_divide_the_batches(cores, batches, mesh, expected):
    assert most_devices(cores, batches, DATA_PARALLEL | mesh) == expected


_PROGRAM = """
import json, os
os.sched_getaffinity = lambda _: set(range(6))
import jax
from rats_jax.parallel.cores import use_cores_as_devices
use_cores_as_devices([9, 12])
print(json.dumps([jax.device_count(), os.environ.get("NPROC")]))
"""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [3, "2"]),
        ({"JAX_NUM_CPU_DEVICES": "4"}, [4, None]),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, [5, None]),
    ],
)
def test_what_the_environment_says_decides(settings, expected):
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC", "JAX_NUM_CPU_DEVICES")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=kept | {"JAX_PLATFORMS": "cpu"} | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == expected


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert count_cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert count_cores() == 5
