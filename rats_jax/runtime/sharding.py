"""Where arrays live: a mesh with axes `data` and `fsdp`, and one rule by shape for the whole state."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rats_jax.errors import ConfigError

_SMALLEST_SHARDED = 2**16


def make_mesh(*, data: int, fsdp: int) -> Mesh:
    """Arrange all devices as a [data, fsdp] mesh.

    Args:
        data: devices along `data`, over which weights are copied; -1 is what fsdp leaves.
        fsdp: devices along `fsdp`, over which weights are split; -1 is what data leaves.

    Returns:
        The mesh; its product is the number of devices of all processes.

    Raises:
        ConfigError: the sizes do not fit the number of devices.
    """
    count = jax.device_count()
    shape = [data, fsdp]
    if -1 in shape and data != fsdp:
        known = max(shape)
        shape[shape.index(-1)] = count // known
    if min(shape) < 1 or math.prod(shape) != count:
        raise ConfigError(
            f"mesh.data={data}, mesh.fsdp={fsdp}: expected sizes (one may be -1) whose product is "
            f"the number of devices, {count}"
        )
    return jax.make_mesh((shape[0], shape[1]), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def validate_batch(mesh: Mesh, *, field: str, batch_size: int, parts: int) -> None:
    """Check that a global batch, cut into `parts`, can be split evenly over the devices.

    Raises:
        ConfigError: names `field`, the batch size and what it must be a multiple of.
    """
    unit = mesh.size * parts
    if batch_size % unit:
        times = f" times {parts} accumulation steps" if parts > 1 else ""
        raise ConfigError(f"{field}={batch_size}: expected a multiple of {unit} ({mesh.size} devices{times})")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split the first axis of an array over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keep a whole copy of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def param_sharding(mesh: Mesh, abstract_params: Any) -> Any:
    """Say where each leaf of a tree of weights lives; the rule sees shapes only: a TrainState will do.

    A leaf of more than 2**16 elements is split over `fsdp` along its largest axis that `fsdp` divides (the
    first of equals); all others are copied to every device.

    Args:
        mesh: from `make_mesh`.
        abstract_params: pytree of arrays or jax.ShapeDtypeStruct.

    Returns:
        The same pytree with a NamedSharding at each leaf.
    """
    size = mesh.shape["fsdp"]

    def rule(leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        axes = [axis for axis, length in enumerate(shape) if length % size == 0]
        if size == 1 or math.prod(shape) <= _SMALLEST_SHARDED or not axes:
            return replicated(mesh)
        axis = max(axes, key=lambda axis: shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(rule, abstract_params)
