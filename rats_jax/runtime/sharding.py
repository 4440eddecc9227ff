"""Where arrays live: a mesh with axes data, fsdp and tensor, and rules that place weights by their paths."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rats_jax.errors import ConfigError
from rats_jax.runtime.rules import Rules, parse_rule

AXES = ("data", "fsdp", "tensor")
# The mesh of a config that says nothing: all devices share the batch.
DATA_PARALLEL = {"data": -1, "fsdp": 1, "tensor": 1, "dcn_data": 1, "dcn_fsdp": 1, "dcn_tensor": 1}
# Smaller leaves are never split over fsdp: gathering them would cost more than the memory is worth.
_SMALLEST_SPLIT = 2**16


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


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split the first axis of an array over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keep a whole copy of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def param_sharding(mesh: Mesh, abstract_params: Any, rules: Rules) -> Any:
    """Say where each leaf of a tree of weights lives; a TrainState will do.

    The first rule whose expression is found in the path of a leaf decides, e.g.
    student/mid_block/resnets_0/conv1/kernel. Rules: `copy` on every device; `largest` splits the largest axis
    that fsdp divides; names of mesh axes, e.g. `fsdp tensor` or `- tensor`, are those of the last axes. What
    does not divide, and along fsdp what has at most 2**16 elements, stays whole. Scalars need no rule.

    Args:
        mesh: from `make_mesh`.
        abstract_params: pytree of leaves with a shape.
        rules: pairs of expression and rule, in the order in which they are tried.

    Returns:
        The same pytree with a NamedSharding at each leaf.

    Raises:
        ConfigError: no rule covers a leaf; names it.
    """
    parsed = [(re.compile(pattern), parse_rule(rule)) for pattern, rule in rules]

    def place(path: Any, leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        if not shape:
            return replicated(mesh)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        matching = [axes for pattern, axes in parsed if pattern.search(name)]
        if not matching:
            raise ConfigError(f"sharding: no rule covers the weight {name!r} of shape {shape}")
        axes = matching[0]
        if axes is None:
            axes = _largest(shape, mesh.shape["fsdp"])
        spec = [None] * (len(shape) - len(axes)) + list(axes[max(len(axes) - len(shape), 0) :])
        small = math.prod(shape) <= _SMALLEST_SPLIT
        for i, axis in enumerate(spec):
            if axis is not None and (
                mesh.shape[axis] == 1 or shape[i] % mesh.shape[axis] or (axis == "fsdp" and small)
            ):
                spec[i] = None
        while spec and spec[-1] is None:
            spec.pop()
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(place, abstract_params)


def _largest(shape: tuple[int, ...], size: int) -> tuple[str | None, ...]:
    """Put fsdp on the largest axis that it divides, the first of equals."""
    divisible = [axis for axis, length in enumerate(shape) if length % size == 0]
    if not divisible:
        return (None,) * len(shape)
    chosen = max(divisible, key=lambda axis: shape[axis])
    return tuple("fsdp" if axis == chosen else None for axis in range(len(shape)))


def place(tree: Any, shardings: Any, *, dtype: Any = None) -> Any:
    """Put a tree on the devices, every process its own parts.

    A leaf that lies in a file is read part by part, so no host holds the whole of what is split.

    Args:
        tree: pytree of NumPy arrays, or of anything with a shape, a dtype and `leaf[slices]`; the same in
            every process.
        shardings: one for all leaves, or a pytree like `tree`.
        dtype: of the result; None keeps that of each leaf.

    Returns:
        The same pytree of jax arrays.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        sharding = shardings
        shardings = jax.tree.map(lambda _: sharding, tree)

    def put(leaf: Any, sharding: Any) -> jax.Array:
        leaf = leaf if hasattr(leaf, "shape") else np.asarray(leaf)
        parts: dict[Any, np.ndarray] = {}  # devices that hold the same part share one reading of it

        def read(index: Any) -> np.ndarray:
            key = tuple((part.start, part.stop) for part in index)
            if key not in parts:
                parts[key] = np.asarray(leaf[index], dtype or leaf.dtype)
            return parts[key]

        return jax.make_array_from_callback(np.shape(leaf), sharding, read)

    return jax.tree.map(put, tree, shardings)


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """List the rows of a batch of `batch_size` that this process's devices hold, ascending int64."""
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in parts]))


def place_rows(tree: Any, rows: np.ndarray, sharding: NamedSharding, batch_size: int) -> Any:
    """Put a global batch on the devices, of which this process knows only the rows that its devices hold.

    Args:
        tree: pytree of NumPy arrays [len(rows), ...].
        rows: from `local_rows`.
        sharding: from `batch_sharding`.
        batch_size: B, global.

    Returns:
        The same pytree of jax arrays [B, ...].
    """

    def put(leaf: np.ndarray) -> jax.Array:
        def read(index: Any) -> np.ndarray:
            return leaf[np.searchsorted(rows, np.arange(batch_size)[index[0]])]

        return jax.make_array_from_callback((batch_size, *leaf.shape[1:]), sharding, read)

    return jax.tree.map(put, tree)


def read_rows(tree: Any, rows: np.ndarray) -> Any:
    """Undo `place_rows`: copy the rows that this process's devices hold back into its memory.

    Args:
        tree: pytree of jax arrays [B, ...], split as by `batch_sharding`.
        rows: from `local_rows`.

    Returns:
        The same pytree of NumPy arrays [len(rows), ...].
    """

    def read(leaf: jax.Array) -> np.ndarray:
        result = np.empty((len(rows), *leaf.shape[1:]), leaf.dtype)
        for shard in leaf.addressable_shards:
            result[np.searchsorted(rows, np.arange(len(leaf))[shard.index[0]])] = shard.data
        return result

    return jax.tree.map(read, tree)
