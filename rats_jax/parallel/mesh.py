"""Mesh of devices with the axes data, fsdp and tensor, hybrid over several slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from rats_jax.errors import ConfigError

AXES = ("data", "fsdp", "tensor")
# The mesh of a config that says nothing: all devices share the batch.
DATA_PARALLEL = {"data": -1, "fsdp": 1, "tensor": 1, "dcn_data": 1, "dcn_fsdp": 1, "dcn_tensor": 1}


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Arrange devices as a [data, fsdp, tensor] mesh, hybrid where there are several slices.

    Args:
        sizes: devices along `data`, `fsdp` and `tensor` inside a slice, and slices along `dcn_data`,
            `dcn_fsdp` and `dcn_tensor`; -1 for one of each three is what the others leave. A slice is what
            the fast network joins: of a TPU its slice, else all devices, or, with more than one slice asked
            for, the devices of a process.
        devices: those of all processes; None is jax.devices().

    Returns:
        The mesh; each axis has its size in a slice times that across slices.

    Raises:
        ConfigError: the sizes do not fit the number of devices or slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    wanted = [sizes[f"dcn_{axis}"] for axis in AXES]
    slices = _slices(devices, many=wanted != [1, 1, 1])
    outer = _fill(wanted, len(slices), [f"mesh.dcn_{axis}" for axis in AXES], "slices")
    inner = _fill(
        [sizes[axis] for axis in AXES],
        len(devices) // len(slices),
        [f"mesh.{axis}" for axis in AXES],
        "devices" if len(slices) == 1 else "devices of a slice",
    )
    types = (AxisType.Auto,) * len(AXES)
    blocks = np.empty(len(slices), dtype=object)
    for i, members in enumerate(slices):
        blocks[i] = mesh_utils.create_device_mesh(inner, members, allow_split_physical_axes=True)
    joined = np.block(blocks.reshape(outer).tolist()) if len(slices) > 1 else blocks[0]
    return Mesh(joined.reshape([a * b for a, b in zip(outer, inner, strict=True)]), AXES, axis_types=types)


def _slices(devices: Sequence[Any], *, many: bool) -> list[list[Any]]:
    """Group devices by TPU slice, or, where there is none and several are wanted, by process."""
    keys = [getattr(device, "slice_index", None) for device in devices]
    if len(set(keys)) == 1 and many:
        keys = [device.process_index for device in devices]
    return [[d for d, key in zip(devices, keys, strict=True) if key == k] for k in sorted(set(keys), key=str)]


def _fill(sizes: list[int], count: int, names: list[str], things: str) -> list[int]:
    filled = list(sizes)
    if filled.count(-1) == 1:
        filled[filled.index(-1)] = count // math.prod(size for size in filled if size != -1)
    if min(filled) < 1 or math.prod(filled) != count:
        given = ", ".join(f"{name}={size}" for name, size in zip(names, sizes, strict=True))
        raise ConfigError(
            f"{given}: expected sizes (one may be -1) whose product is the number of {things}, {count}"
        )
    return filled


def validate_batch(mesh: Mesh, *, field: str, batch_size: int, parts: int) -> None:
    """Check that a global batch, cut into `parts`, can be split evenly over data and fsdp.

    Raises:
        ConfigError: names `field`, the batch size and what it must be a multiple of.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (ways * parts):
        times = f" times {parts} parts" if parts > 1 else ""
        raise ConfigError(
            f"{field}={batch_size}: expected a multiple of {ways * parts} (data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']} of the mesh{times})"
        )
