"""A student as files that others read: a diffusers pipeline, or adapters in the names of two worlds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from rats_jax.diffusion.scheduler_config import as_ddim
from rats_jax.errors import ConfigError
from rats_jax.pipelines.base import TOKENIZER_FILES, network_weights
from rats_jax.types import Params
from rats_jax.weights.folder import (
    CLIP_WEIGHTS,
    UNET_WEIGHTS,
    VAE_WEIGHTS,
    read_json,
    save_safetensors,
    write_json,
)
from rats_jax.weights.hub import find_file, get_file
from rats_jax.weights.naming import torch_name
from rats_jax.weights.stored import read_all

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Where diffusers looks for adapters."""
_KOHYA_FILE = "comfyui/rats_lora.safetensors"


def write_pipeline(
    folder: Path, source: str, unet: Params, *, scheduler_config: Mapping[str, Any], dtype: Any
) -> None:
    """Write a diffusers pipeline with another UNet and a DDIM scheduler; all else is that of the source.

    Args:
        folder: to write into.
        source: folder or hub id of the pipeline that the UNet was trained from.
        unet: its weights, Flax tree.
        scheduler_config: the noise schedule and where the timesteps lie.
        dtype: of all weights on disk.

    Raises:
        ConfigError: timesteps that a DDIM scheduler cannot place.
    """
    try:
        scheduler = as_ddim(scheduler_config)
    except ValueError as error:
        raise ConfigError(f"format='diffusers': {error}") from None
    index = read_json(get_file(source, "model_index.json"))
    kept = {
        name: part
        for name, part in index.items()
        if name.startswith(("_class", "tokenizer", "text_encoder", "unet", "vae", "force_zeros"))
    }
    if index["_class_name"] == "StableDiffusionPipeline":  # of the XL one neither is a part
        kept |= {"safety_checker": [None, None], "requires_safety_checker": False}
    kept |= {"feature_extractor": [None, None], "image_encoder": [None, None]}
    write_json(folder / "model_index.json", kept | {"scheduler": ["diffusers", "DDIMScheduler"]})
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    weights = {name: read_all(tree) for name, tree in network_weights(source).items() if name != "unet"}
    for name, params in (weights | {"unet": unet}).items():
        write_json(folder / name / "config.json", read_json(get_file(source, f"{name}/config.json")))
        file = {"unet": UNET_WEIGHTS, "vae": VAE_WEIGHTS}.get(name, CLIP_WEIGHTS)
        save_safetensors(folder / name / file, params, dtype=dtype)
    copy_tokenizers(source, folder)


def copy_tokenizers(source: str, folder: Path) -> None:
    """Copy the tokenizers that the index of a pipeline names, each into its folder."""
    index = read_json(get_file(source, "model_index.json"))
    for tokenizer in (name for name in index if name.startswith("tokenizer")):
        (folder / tokenizer).mkdir()
        for file in TOKENIZER_FILES:
            found = find_file(source, f"{tokenizer}/{file}")
            if found is not None:
                shutil.copyfile(found, folder / tokenizer / file)


def write_adapters(folder: Path, adapters: Params, *, scale: float, dtype: Any) -> None:
    """Write adapters of a UNet in peft's names, as diffusers reads them, and in Kohya's, as ComfyUI does.

    Both readers scale by alpha / rank with alpha = rank, so `scale` goes into the second factor.

    Args:
        folder: to write into.
        adapters: from `lora.init_adapters`, trained.
        scale: alpha / rank.
        dtype: of the weights on disk.
    """
    peft, kohya = {}, {}
    for path, (down, up) in _pairs(adapters).items():
        layer = torch_name((*path, "kernel")).removesuffix(".weight")
        first, second = down.T, (scale * up).T
        if down.ndim == 4:  # HWIO -> OIHW
            first, second = down.transpose(3, 2, 0, 1), second[:, :, None, None]
        first, second = (np.ascontiguousarray(x, dtype) for x in (first, second))
        peft |= {f"unet.{layer}.lora_A.weight": first, f"unet.{layer}.lora_B.weight": second}
        name = f"lora_unet_{layer.replace('.', '_')}"
        kohya |= {f"{name}.lora_down.weight": first, f"{name}.lora_up.weight": second}
        kohya[f"{name}.alpha"] = np.array(len(first), dtype)
    (folder / _KOHYA_FILE).parent.mkdir()
    for file, tensors in ((LORA_FILE, peft), (_KOHYA_FILE, kohya)):
        save_file(tensors, str(folder / file), metadata={"format": "pt"})
        (folder / file).chmod(0o644)


def read_adapters(file: Path, like: Params) -> Params:
    """Read the adapters that `write_adapters` wrote in peft's names; their scale is 1.

    Args:
        file: LORA_FILE.
        like: adapters of the same layers.
    """
    tensors = load_file(str(file))
    flat = {}
    for path in _pairs(like):
        layer = f"unet.{torch_name((*path, 'kernel')).removesuffix('.weight')}"
        first, second = (tensors.pop(f"{layer}.lora_{which}.weight").astype(np.float32) for which in "AB")
        if first.ndim == 4:
            first, second = first.transpose(2, 3, 1, 0), second[:, :, 0, 0]
        else:
            first = first.T
        flat |= {(*path, "down"): first, (*path, "up"): second.T}
    assert not tensors, sorted(tensors)
    return unflatten_dict(flat)


def _pairs(adapters: Params) -> dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
    flat = cast(Mapping[tuple[str, ...], Any], flatten_dict(adapters))
    return {
        path[:-1]: (np.asarray(down), np.asarray(flat[*path[:-1], "up"]))
        for path, down in flat.items()
        if path[-1] == "down"
    }


def find_licence(source: str) -> str:
    """Find the licence that the model card of a pipeline names; empty if it names none."""
    card = find_file(source, "README.md")
    found = re.search(r"^license:\s*(\S+)", card.read_text("utf-8"), re.MULTILINE) if card else None
    return found[1] if found else ""
