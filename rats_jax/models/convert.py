"""Weights between the Flax parameter trees and safetensors files in PyTorch names, without PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open
from safetensors.numpy import save_file

from rats_jax.errors import ConfigError
from rats_jax.types import Params

_LIST_ITEM = re.compile(r"(blocks|attentions|resnets|downsamplers|upsamplers|net|to_out)_(\d+)")
_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# AutoencoderKL's attention was renamed in diffusers 0.15; its Flax class and older files keep the old names.
_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class WeightsError(ConfigError):
    """Weights that are missing, left over or of another shape than the architecture asks for."""


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


def _old_torch_name(path: tuple[str, ...]) -> str:
    *modules, leaf = path
    return ".".join([*(_LIST_ITEM.sub(r"\1.\2", m) for m in modules), _LEAF_NAMES.get(leaf, leaf)])


def _to_flax_layout(value: np.ndarray, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Transpose a PyTorch tensor to Flax's layout: Linear [out, in] -> [in, out], Conv OIHW -> HWIO."""
    if path[-1] != "kernel":
        return value
    if value.ndim == 4:
        # A 1x1 convolution and a linear layer hold the same numbers; files use either for projections.
        value = value.transpose(2, 3, 1, 0)
        return value.reshape(value.shape[2:]) if len(shape) == 2 and value.shape[:2] == (1, 1) else value
    value = value.T
    return value[None, None] if len(shape) == 4 else value


def _to_torch_layout(value: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def load_safetensors(file: Path, abstract_params: Params, *, prefix: str = "") -> dict[str, Any]:
    """Read a safetensors file in PyTorch names into a Flax parameter tree of float32 NumPy arrays.

    Args:
        file: the safetensors file.
        abstract_params: nested dict of anything with `.shape`: the tree to fill.
        prefix: what stands before every name in the file.

    Returns:
        A nested dict like `abstract_params`, leaves np.float32.

    Raises:
        WeightsError: no such file, damaged, or weights missing, extra or of another shape; names them.
    """
    if not file.is_file():
        raise WeightsError(f"weights file {str(file)!r} does not exist")
    wanted = cast(Mapping[tuple[str, ...], Any], flatten_dict(abstract_params))
    params: dict[tuple[str, ...], np.ndarray] = {}
    problems = []
    try:
        archive = safe_open(str(file), framework="numpy")
    except Exception as error:  # safetensors raises its own Rust error type for damaged files
        raise WeightsError(
            f"weights file {str(file)!r} is not a readable safetensors file: {error}"
        ) from None
    with archive as tensors:
        available = set(tensors.keys())
        used = set()
        for path, leaf in wanted.items():
            names = [prefix + torch_name(path), prefix + _old_torch_name(path)]
            name = next((n for n in names if n in available), None)
            if name is None:
                problems.append(f"missing {names[0]}")
                continue
            used.add(name)
            value = _to_flax_layout(np.asarray(tensors.get_tensor(name)), path, leaf.shape)
            if value.shape != tuple(leaf.shape):
                problems.append(f"{name} has shape {value.shape} (Flax layout), expected {tuple(leaf.shape)}")
                continue
            params[path] = np.asarray(value, np.float32)
        # Buffers that old exports carry and no network learns.
        extra = sorted(n for n in available - used if not n.endswith("position_ids"))
        problems += [f"unexpected {name}" for name in extra]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise WeightsError(f"weights file {str(file)!r} does not fit its config.json: {shown}")
    return unflatten_dict(params)


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


def save_safetensors(file: Path, params: Params, *, dtype: Any = np.float32) -> None:
    """Write a Flax parameter tree as a safetensors file in PyTorch names.

    Args:
        file: where to; its folder is made.
        params: nested dict of arrays.
        dtype: dtype on disk.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(to_torch_names(jax.device_get(params), dtype=dtype), str(file), metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors leaves it readable by its owner alone
