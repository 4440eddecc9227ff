"""Model folders in the layout of diffusers and transformers."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from safetensors.numpy import save_file

from rats_jax.errors import WeightsError
from rats_jax.networks.abstract import abstract_params
from rats_jax.texts import parse_whole_json, read_text
from rats_jax.types import Params
from rats_jax.weights.naming import iter_torch_names, to_torch_names, torch_sizes

UNET_WEIGHTS = VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"
CLIP_WEIGHTS = "model.safetensors"
MAX_SHARD_BYTES = 10_000_000_000
"""Of a file of weights, as diffusers writes them."""


def read_json(file: Path | epath.Path) -> dict[str, Any]:
    """Read one of a model folder's JSON files, or of a run's.

    Raises:
        WeightsError: it is missing, unreadable or no JSON object.
    """
    try:
        content = parse_whole_json(read_text(file))
    except FileNotFoundError:
        raise WeightsError(f"model folder lacks {str(file)!r}: expected a diffusers folder") from None
    except OSError as error:
        raise WeightsError(f"{str(file)!r}: expected a readable file ({error.strerror or error})") from None
    except ValueError as error:
        raise WeightsError(f"{str(file)!r} is no JSON file: {error}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{str(file)!r} holds a {type(content).__name__}, expected a JSON object")
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, its folder too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")


def write_model(
    folder: Path, config: dict[str, Any], params: Params, weights_name: str, *, dtype: Any = np.float16
) -> None:
    """Write config.json and weights, whole or not at all; files that are in the folder already stay.

    Args:
        folder: of one network.
        config: content of config.json.
        params: Flax tree.
        weights_name: file name of the safetensors.
        dtype: of the weights on disk.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if folder.exists():
        shutil.copytree(folder, partial)
    write_json(partial / "config.json", config)
    save_safetensors(partial / weights_name, params, dtype=dtype)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_model_index(folder: Path, scheduler_config: dict[str, Any]) -> None:
    """Complete a Stable Diffusion folder with its scheduler and, last, the index that makes it one."""
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler_config)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", scheduler_config["_class_name"]],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def write_sharded(
    folder: Path, name: str, params: Params, *, dtype: Any, max_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write weights in PyTorch names as the hub's big models are: files of limited size, and their index.

    What fits one file is one, without an index. Leaves are read one at a time, so that a host holds one file
    and one leaf.

    Args:
        folder: of the network; it is made.
        name: of the file, `*.safetensors`; of several, `*-0000I-of-0000N.safetensors`.
        params: nested dict of arrays, or of leaves that lie in files.
        dtype: on disk.
        max_bytes: of a file, unless a single tensor is larger.
    """
    shards: list[list[str]] = [[]]
    room, total = max_bytes, 0
    for tensor, size in torch_sizes(params):
        size *= np.dtype(dtype).itemsize
        if size > room and shards[-1]:
            shards.append([])
            room = max_bytes
        shards[-1].append(tensor)
        room, total = room - size, total + size
    tensors = iter_torch_names(params, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for i, names in enumerate(shards, start=1):
        stem, suffix = name.rsplit(".", 1)
        file = name if len(shards) == 1 else f"{stem}-{i:05d}-of-{len(shards):05d}.{suffix}"
        content = dict(itertools.islice(tensors, len(names)))
        save_file(content, str(folder / file), metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors leaves it readable by its owner alone
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / f"{name}.index.json", index)


def naming_file(file: str, read: Callable[[], Any]) -> Any:
    """Run what reads a config file, and name the file in its ValueError.

    Raises:
        WeightsError: "'file': field=value: expected ...".
    """
    try:
        return read()
    except ValueError as error:
        raise WeightsError(f"{file!r}: {error}") from None


def describe(source: str, make: Callable[[], Any], init: Any) -> tuple[Any, Params]:
    """Build a network and the shapes of its weights.

    Args:
        source: of the config, for the message.
        make: gives the linen module.
        init: (module, key) -> weights.

    Raises:
        WeightsError: no network can be built from this config; names the field where one is refused.
    """
    module = naming_file(source, make)
    try:
        return module, abstract_params(init, module)
    except Exception as error:  # sizes that do not fit each other
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(f"{source!r} describes no network known here: {reason}") from None


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
