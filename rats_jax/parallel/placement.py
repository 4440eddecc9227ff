"""Placement of arrays on the devices of a mesh: batches by rows, weights by rules on their paths."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rats_jax.errors import ConfigError
from rats_jax.parallel.rules import Rules, parse_rule

# Smaller leaves are never split over fsdp: gathering them would cost more than the memory is worth.
_SMALLEST_SPLIT = 2**16


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split the first axis of an array over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keep a whole copy of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def without_fsdp(sharding: NamedSharding) -> NamedSharding:
    """Gather over fsdp what is split, and leave it split over tensor."""
    spec = (None if axis == "fsdp" else axis for axis in sharding.spec)
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


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
