"""Stored weights that still lie in their files: checked when they are found, read where they are placed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import WeightsError

# The bits of infinity in dtypes of two bytes, and how many numbers of them are looked at together.
_INFINITE = {np.dtype(np.float16): 0x7C00, np.dtype(jnp.bfloat16): 0x7F80}
_AT_ONCE = 1 << 18


class Sliceable(Protocol):
    """A tensor of which parts can be read: a NumPy array, or one in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: Any, /) -> np.ndarray: ...


class StackedTensors:
    """Tensors of one shape as one with a leading axis, of which parts can be read."""

    def __init__(self, tensors: Sequence[Sliceable]):
        self._tensors = tuple(tensors)
        self.shape = (len(self._tensors), *self._tensors[0].shape)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        first, *rest = index
        return np.stack([np.asarray(tensor[tuple(rest)]) for tensor in self._tensors[first]])


class StoredArray:
    """An array in Flax's layout over a tensor in another layout that is not read yet; float32 by default.

    A leaf of a tree of weights: it has a shape and a dtype, and `array[index]` reads the part that a device
    wants, so that a host never holds the whole of what is spread over many.
    """

    def __init__(
        self, tensor: Sliceable, axes: Sequence[int | None], dtype: Any = np.float32, name: str = ""
    ):
        """Take a view of a tensor.

        Args:
            tensor: where the numbers are, of any float dtype.
            axes: for each axis of the array the axis of the tensor that it is; None is a new one of length 1.
                Axes of the tensor that are not named have length 1.
            dtype: of what is read.
            name: file and tensor, for messages.
        """
        self._tensor, self._axes, self.dtype = tensor, tuple(axes), np.dtype(dtype)
        self.name = name
        self.shape = tuple(1 if axis is None else tensor.shape[axis] for axis in self._axes)
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read a part, given as one slice of step 1 for each axis.

        Raises:
            WeightsError: it holds nan or infinity.
        """
        wanted = [slice(None)] * len(self._tensor.shape)
        for axis, part in zip(self._axes, index, strict=True):
            if axis is not None:
                wanted[axis] = part
        found = np.asarray(self._tensor[tuple(wanted)])
        kept = [axis for axis in self._axes if axis is not None]
        dropped = tuple(axis for axis in range(found.ndim) if axis not in kept)
        found = found.transpose(*dropped, *kept).reshape([found.shape[axis] for axis in kept])
        new = tuple(i for i, axis in enumerate(self._axes) if axis is None)
        # A copy, for what is found may lie in a file that somebody changes.
        values = np.array(np.expand_dims(found, new), self.dtype, order="C")
        if not is_finite(values):
            raise WeightsError(f"weights {self.name}: expected finite numbers, some are nan or infinite")
        return values

    def astype(self, dtype: Any) -> StoredArray:
        """Give the same weights in another dtype, as unread as before."""
        return StoredArray(self._tensor, self._axes, dtype, self.name)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Read all of it."""
        del copy  # it is always a new array
        return np.asarray(self[(slice(None),) * self.ndim], dtype)


def is_finite(values: np.ndarray) -> bool:
    """Tell whether numbers of any float dtype are all finite, at the speed of memory if they are."""
    if values.dtype in _INFINITE:
        # NumPy is slow at them; their sign left out, larger bits are larger numbers.
        bits, infinite = values.reshape(-1).view(np.uint16), _INFINITE[values.dtype]
        parts = (bits[i : i + _AT_ONCE] for i in range(0, bits.size, _AT_ONCE))
        return all(np.max(part & 0x7FFF) < infinite for part in parts)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.sum(values)) or np.isfinite(values).all())


def stored_stack(tensors: Sequence[tuple[Sliceable, Sequence[int | None]]], *, name: str = "") -> StoredArray:
    """Take a view of the tensors of several layers as one array with a leading axis of layers.

    Args:
        tensors: of each layer the tensor and its axes, as `StoredArray` takes them; alike in all layers.
        name: for messages.
    """
    axes = tensors[0][1]
    stacked = StackedTensors([tensor for tensor, _ in tensors])
    return StoredArray(stacked, (0, *(axis if axis is None else axis + 1 for axis in axes)), name=name)


def read_all(tree: Any) -> Any:
    """Read every stored leaf of a tree of weights: the same tree of float32 NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)
