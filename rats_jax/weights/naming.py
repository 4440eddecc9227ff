"""Names of weights: Flax trees in PyTorch's names and layout, without PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from rats_jax.types import Params

_LIST_ITEM = re.compile(r"(blocks|attentions|resnets|downsamplers|upsamplers|net|to_out)_(\d+)")
_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# AutoencoderKL's attention was renamed in diffusers 0.15; its Flax class and older files keep the old names.
_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def torch_name(path: tuple[str, ...]) -> str:
    """Give the PyTorch name of the Flax parameter at `path`, in today's diffusers and transformers naming.

    Args:
        path: keys from the root of the tree to the leaf, e.g. ("mid_block", "resnets_0", "conv1", "kernel").

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


def flax_axes(path: tuple[str, ...], torch_shape: tuple[int, ...], ndim: int) -> tuple[int | None, ...]:
    """Say which axis of a PyTorch tensor each axis of the Flax parameter at `path` is.

    Linear [out, in] -> [in, out], Conv OIHW -> HWIO. A 1x1 convolution and a linear layer hold the same
    numbers, and files use either for projections.

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
    linear = tuple(reversed(range(len(torch_shape))))
    return (None, None, *linear) if ndim == 4 else linear


def _to_torch_layout(value: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def to_torch_names(params: Params, *, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Turn a Flax parameter tree into the state dict that PyTorch's module of the same architecture loads.

    Args:
        params: nested dict of arrays.
        dtype: dtype of the result.

    Returns:
        Mapping from PyTorch name to contiguous array in PyTorch's layout.
    """
    flat: Mapping[tuple[str, ...], Any] = flatten_dict(params)
    return {
        torch_name(path): _to_torch_layout(np.asarray(value, dtype), path).copy(order="C")
        for path, value in flat.items()
    }
