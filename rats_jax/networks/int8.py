"""Frozen weights in 8-bit integers: half the memory of bfloat16, one scale for each output of a layer.

A kernel is kept as integers from -127 to 127 and multiplied as such, in the dtype of the computation, which
holds them exactly; the result is multiplied by the scales. So no second copy of a kernel is kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.types import Array, Params

SCALE = "kernel_scale"
"""Name of the scales beside a `kernel` of integers."""
_LEAST_SIZE = 2**14  # of the kernel of a layer: smaller ones would save little
_BLOCKS = re.compile("block")  # embeddings and the last layer are small, and all that is computed passes them
_LARGEST = 127


def quantize(params: Params, others: Params, *, skip: str = "") -> Params:
    """Keep the kernels of linear layers and convolutions in a network's blocks in 8 bits.

    Args:
        params: of the network, nested dict of NumPy arrays, of what is still in files or of shapes alone.
        others: the same tree, in which all that is not kept in 8 bits is found.
        skip: regular expression, searched in the path of a weight, of those that are not; '' is none.

    Returns:
        A tree with int8 kernels, which are read when they are placed, and beside each its scales, float32
        [O], in a stack of N layers [N, O]: kernel * scale is what it was, to half a scale.

    Source: Dettmers et al., LLM.int8(), arXiv 2208.07339, section 2 (absmax, for each output).
    """
    flat = cast(Mapping[tuple[str, ...], Any], flatten_dict(params))
    quantized = dict(cast(Mapping[tuple[str, ...], Any], flatten_dict(others)))
    for path, leaf in flat.items():
        if path[-1] == "kernel" and _is_chosen("/".join(path), leaf.shape, skip):
            quantized[path] = _view(Int8Kernel, leaf)
            quantized[(*path[:-1], SCALE)] = _view(Int8Scale, leaf)
    return unflatten_dict(quantized)


def _view(kind: Any, leaf: Any) -> Any:
    view = kind(leaf)
    return jax.ShapeDtypeStruct(view.shape, view.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else view


def _is_chosen(name: str, shape: tuple[int, ...], skip: str) -> bool:
    if not _BLOCKS.search(name) or (skip and re.search(skip, name)):
        return False
    return math.prod(shape[1:] if is_stack(shape) else shape) >= _LEAST_SIZE


def is_stack(shape: tuple[int, ...]) -> bool:
    """Tell linear layers in a stack, [N, I, O], from one, [I, O], and from a convolution, [h, w, I, O]."""
    return len(shape) == 3


def _inputs(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the axes that a layer sums over."""
    return (1,) if is_stack(shape) else tuple(range(len(shape) - 1))


def _scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for axis, length in enumerate(shape) if axis not in _inputs(shape))


class Int8Kernel:
    """A kernel in 8 bits over one in full precision, of which parts can be read."""

    dtype = np.dtype(np.int8)

    def __init__(self, kernel: Any):
        """Take a view of a kernel: a NumPy array, or one in a file."""
        self._kernel, self.shape = kernel, tuple(kernel.shape)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read a part, given as a slice for each axis; a layer at a time, of it all that is summed over."""
        inputs = _inputs(self.shape)
        kept = tuple(part if axis in inputs else slice(None) for axis, part in enumerate(index))

        def quantized(layer: tuple[slice, ...]) -> np.ndarray:
            whole = _read(self._kernel, layer)
            whole /= np.expand_dims(_scale_of(whole), inputs)
            return np.rint(whole, out=whole)[kept].astype(np.int8)

        return np.concatenate([quantized(layer) for layer in _layers(self.shape, index)])


class Int8Scale:
    """The scales of an `Int8Kernel`, of which parts can be read."""

    dtype = np.dtype(np.float32)

    def __init__(self, kernel: Any):
        """Take a view of a kernel: a NumPy array, or one in a file."""
        self._kernel, self.shape = kernel, _scale_shape(tuple(kernel.shape))

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read a part, given as a slice for each axis."""
        shape, parts = tuple(self._kernel.shape), iter(index)
        wanted = tuple(slice(None) if axis in _inputs(shape) else next(parts) for axis in range(len(shape)))
        return np.concatenate([_scale_of(_read(self._kernel, layer)) for layer in _layers(shape, wanted)])


def _layers(shape: tuple[int, ...], index: tuple[slice, ...]) -> list[tuple[slice, ...]]:
    """Cut a part of a stack into its layers, so that few numbers are in full precision at once."""
    if not is_stack(shape):
        return [index]
    return [(slice(layer, layer + 1), *index[1:]) for layer in range(*index[0].indices(shape[0]))]


def _read(kernel: Any, index: tuple[slice, ...]) -> np.ndarray:
    """Read the kernels of some outputs in float32, a new array."""
    inputs = _inputs(tuple(kernel.shape))
    return np.array(
        kernel[tuple(slice(None) if axis in inputs else part for axis, part in enumerate(index))], np.float32
    )


def _scale_of(kernel: np.ndarray) -> np.ndarray:
    scale = np.max(np.abs(kernel), axis=_inputs(kernel.shape)) / np.float32(_LARGEST)
    return np.where(scale > 0, scale, np.float32(1))


def apply_int8(layer: nn.Module, *inputs: Any) -> jax.Array:
    """Compute a linear layer or convolution whose kernel is kept in 8 bits.

    Args:
        layer: nn.Dense or Conv, bound to its weights: kernel int8 [..., I, O], scales [O], perhaps a bias.
        inputs: of the layer.

    Returns:
        What the layer gives, in its dtype; differentiable in the inputs. The gradient reads the integers
        again and keeps nothing of them.
    """
    plain = layer.clone(use_bias=False, parent=None, name=None)  # pyright: ignore[reportCallIssue]

    def product(kernel: Array, *inputs: Any) -> Any:
        return plain.apply({"params": {"kernel": kernel}}, *inputs)

    kernel, scale = (layer.get_variable("params", name) for name in ("kernel", SCALE))
    outputs = cast(jax.Array, jax.checkpoint(product)(kernel, *inputs))
    outputs = (outputs * scale).astype(outputs.dtype)
    if not layer.has_variable("params", "bias"):
        return outputs
    return outputs + layer.get_variable("params", "bias").astype(outputs.dtype)
