"""Names of weights: Flax trees in PyTorch's names and layout, without PyTorch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.networks.stack import STACK_NAME
from rats_jax.types import Params

_LIST_ITEM = re.compile(
    r"(blocks?|layer|attentions|resnets|downsamplers|upsamplers|resample|net|to_out)_(\d+)"
)
_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# AutoencoderKL's attention was renamed in diffusers 0.15; its Flax class and older files keep the old names.
_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unstack(path: tuple[str, ...]) -> list[tuple[str, ...]] | None:
    """List the layers whose weights are one parameter of a stack, see `networks/stack.py`.

    Args:
        path: keys from the root of the tree to the leaf.

    Returns:
        A path for each layer: ("blocks_0_to_1", "bias") -> [("blocks_0", "bias"), ("blocks_1", "bias")];
        None where the parameter is that of one layer.
    """
    for place, module in enumerate(path):
        if found := STACK_NAME.fullmatch(module):
            prefix, first, last = f"{found[1]}_" if found[1] else "", int(found[2]), int(found[3])
            return [(*path[:place], f"{prefix}{i}", *path[place + 1 :]) for i in range(first, last + 1)]
    return None


def unstack_params(params: Params, *, dtype: Any = np.float32) -> Params:
    """Give each layer of a stack a module of its own, as in the trees of others.

    Args:
        params: nested dict of arrays, or of leaves that lie in files and are read here.
        dtype: of the result.

    Returns:
        A nested dict of NumPy arrays.
    """
    return unflatten_dict(dict(_iter_layers(params, dtype)))


def _iter_layers(params: Params, dtype: Any) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Read one parameter at a time; yield it layer by layer, each under the path of a layer by itself."""
    flat = cast(Mapping[tuple[str, ...], Any], flatten_dict(params))
    for path, value in flat.items():
        layers = unstack(path)
        # What lies in a file is read in the dtype that is wanted.
        whole = np.asarray(value.astype(dtype))
        yield from [(path, whole)] if layers is None else zip(layers, whole, strict=True)


def torch_name(path: tuple[str, ...]) -> str:
    """Give the PyTorch name of the Flax parameter at `path`, in today's diffusers and transformers naming.

    Args:
        path: keys from the root of the tree to the leaf, e.g. ("mid_block", "resnets_0", "conv1", "kernel");
            of one layer, see `unstack`.

    Returns:
        The dotted name, e.g. "mid_block.resnets.0.conv1.weight".
    """
    *modules, leaf = path
    parts = [_VAE_ATTENTION.get(m, _LIST_ITEM.sub(r"\1.\2", m)) for m in modules]
    return ".".join([*parts, _LEAF_NAMES.get(leaf, leaf)])


def old_torch_name(path: tuple[str, ...]) -> str:
    """Give the name in the files of before diffusers 0.15."""
    *modules, leaf = path
    return ".".join([*(_LIST_ITEM.sub(r"\1.\2", m) for m in modules), _LEAF_NAMES.get(leaf, leaf)])


def new_torch_name(path: tuple[str, ...]) -> str:
    """Give the name in the files of transformers 5, where a text encoder by itself is part of nothing."""
    return torch_name(path).removeprefix("text_model.")


def tied_torch_name(path: tuple[str, ...]) -> str:
    """Give the other name of T5's table of tokens, of which files carry one or both."""
    return "encoder.embed_tokens.weight" if path == ("shared", "embedding") else torch_name(path)


OTHER_NAMES = (old_torch_name, new_torch_name, tied_torch_name)
"""Names that older and newer files, and those with one weight under two names, have in place of today's."""


def flax_axes(path: tuple[str, ...], torch_shape: tuple[int, ...], ndim: int) -> tuple[int | None, ...]:
    """Say which axis of a PyTorch tensor each axis of the Flax parameter at `path` is.

    Linear [out, in] -> [in, out], Conv OIHW -> HWIO and OITHW -> THWIO. A 1x1 convolution and a linear layer
    hold the same numbers, and files use either for projections.

    Args:
        path: keys from the root of the tree to the leaf.
        torch_shape: of the tensor.
        ndim: number of axes of the parameter.

    Returns:
        For each axis of the parameter the tensor's, None for a new one of length 1; a tensor that cannot be
        that parameter keeps its own.
    """
    if path[-1] != "kernel":
        return tuple(range(len(torch_shape)))
    if len(torch_shape) == 4:
        return (1, 0) if ndim == 2 and torch_shape[2:] == (1, 1) else (2, 3, 1, 0)
    if len(torch_shape) == 5:
        return 2, 3, 4, 1, 0
    linear = tuple(reversed(range(len(torch_shape))))
    return (None, None, *linear) if ndim == 4 else linear


def _to_torch_layout(value: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    if value.ndim < 4:
        return value.T
    return value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))


def torch_sizes(params: Params) -> Iterator[tuple[str, int]]:
    """List names and numbers of elements of what `iter_torch_names` yields, in its order, reading nothing."""
    flat = cast(Mapping[tuple[str, ...], Any], flatten_dict(params))
    for path, leaf in flat.items():
        layers = unstack(path) or [path]
        for layer in layers:
            yield torch_name(layer), math.prod(leaf.shape) // len(layers)


def iter_torch_names(params: Params, *, dtype: Any = np.float32) -> Iterator[tuple[str, np.ndarray]]:
    """Turn a Flax parameter tree into tensors of PyTorch's module of the same architecture, one at a time.

    Args:
        params: nested dict of arrays, or of leaves that lie in files and are read here.
        dtype: dtype of the result.

    Yields:
        PyTorch name, and contiguous array in PyTorch's layout.
    """
    for layer, part in _iter_layers(params, dtype):
        yield torch_name(layer), _to_torch_layout(part, layer).copy(order="C")


def to_torch_names(params: Params, *, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Turn a Flax parameter tree into the state dict of PyTorch's module, see `iter_torch_names`."""
    return dict(iter_torch_names(params, dtype=dtype))
