"""Adapters of a student as files that others read, in peft's names and in those that ComfyUI reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from rats_jax.types import Params
from rats_jax.weights.naming import torch_name, unstack

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Where diffusers looks for adapters."""
COMFYUI_FILE = "comfyui/rats_lora.safetensors"
"""The same adapters in the names that ComfyUI reads, where it does not read those of diffusers."""


def write_adapters(
    folder: Path,
    adapters: Params,
    *,
    network_name: str,
    native_name: Callable[[str], str] | None,
    scale: float,
    dtype: Any,
) -> None:
    """Write adapters in peft's names, as diffusers reads them, and for ComfyUI in those that it reads.

    These are Kohya's of a UNet, those of its makers of a transformer that has a `native_name`, and peft's of
    others. All readers scale by alpha / rank with alpha = rank, so `scale` goes into the second factor.

    Args:
        folder: to write into.
        adapters: from `lora.init_adapters`, trained.
        network_name: folder of the network in its pipeline.
        native_name: of the pipeline.
        scale: alpha / rank.
        dtype: of the weights on disk.
    """
    peft, comfyui = {}, {}
    for path, down, up in _layers(adapters):
        layer = torch_name((*path, "kernel")).removesuffix(".weight")
        first, second = down.T, (scale * up).T
        if down.ndim > 2:  # HWIO -> OIHW, THWIO -> OITHW
            places = down.ndim - 2
            first = down.transpose(places + 1, places, *range(places))
            second = second.reshape(*second.shape, *[1] * places)
        first, second = (np.ascontiguousarray(x, dtype) for x in (first, second))
        prefix = f"{network_name}.{layer}"
        peft |= {f"{prefix}.lora_A.weight": first, f"{prefix}.lora_B.weight": second}
        if network_name == "unet":
            name = f"lora_unet_{layer.replace('.', '_')}"
            comfyui |= {f"{name}.lora_down.weight": first, f"{name}.lora_up.weight": second}
            comfyui[f"{name}.alpha"] = np.array(len(first), dtype)
        elif native_name is not None:
            name = f"diffusion_model.{native_name(layer)}"
            comfyui |= {f"{name}.lora_A.weight": first, f"{name}.lora_B.weight": second}
    files = {LORA_FILE: peft} | ({COMFYUI_FILE: comfyui} if comfyui else {})
    for file, tensors in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        save_file(tensors, str(folder / file), metadata={"format": "pt"})
        (folder / file).chmod(0o644)


def read_adapters(file: Path, like: Params, *, network_name: str) -> Params:
    """Read the adapters that `write_adapters` wrote in peft's names; their scale is 1.

    Args:
        file: LORA_FILE.
        like: adapters of the same layers.
        network_name: as of `write_adapters`.
    """
    tensors = load_file(str(file))

    def read(path: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        layer = f"{network_name}.{torch_name((*path, 'kernel')).removesuffix('.weight')}"
        first, second = (tensors.pop(f"{layer}.lora_{which}.weight").astype(np.float32) for which in "AB")
        if first.ndim > 2:
            return first.transpose(*range(2, first.ndim), 1, 0), second.reshape(second.shape[:2]).T
        return first.T, second.T

    flat = {}
    for path in _pairs(like):
        layers = unstack(path)
        pair = read(path) if layers is None else map(np.stack, zip(*map(read, layers), strict=True))
        flat |= {(*path, name): value for name, value in zip(("down", "up"), pair, strict=True)}
    assert not tensors, sorted(tensors)
    return unflatten_dict(flat)


def _layers(adapters: Params) -> Iterator[tuple[tuple[str, ...], np.ndarray, np.ndarray]]:
    """List the adapters of each layer; those of a stack are many."""
    for path, (down, up) in _pairs(adapters).items():
        layers = unstack(path)
        if layers is None:
            yield path, down, up
        else:
            yield from zip(layers, down, up, strict=True)


def _pairs(adapters: Params) -> dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
    flat = cast(Mapping[tuple[str, ...], Any], flatten_dict(adapters))
    return {
        path[:-1]: (np.asarray(down), np.asarray(flat[*path[:-1], "up"]))
        for path, down in flat.items()
        if path[-1] == "down"
    }
