"""Writing of a pipeline as a diffusers folder, with other weights of its network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rats_jax.diffusion.scheduler_config import as_ddim
from rats_jax.pipelines.base import SCHEDULER_FILE, Parts, read_field
from rats_jax.texts import has_mark, read_text
from rats_jax.types import Params
from rats_jax.weights.folder import (
    CLIP_WEIGHTS,
    UNET_WEIGHTS,
    read_json,
    save_safetensors,
    write_json,
    write_sharded,
)
from rats_jax.weights.hub import find_file, get_file
from rats_jax.weights.stored import read_all
from rats_jax.weights.tokenizer_files import T5_TOKENIZER_FILES, TOKENIZER_FILES

_KEPT = ("_class", "tokenizer", "text_encoder", "unet", "vae", "force_zeros")


def write_pipeline(
    parts: Parts, network_name: str, folder: Path, network: Params, *, timestep_spacing: str, dtype: Any
) -> None:
    """Write a pipeline with another network and a DDIM scheduler; all else is that of the source.

    Args:
        parts: of the source, with its weights.
        network_name: folder of the network.
        folder: to write into.
        network: weights of the network, NumPy or stored.
        timestep_spacing: of the scheduler; empty is that of the source.
        dtype: of all weights on disk.

    Raises:
        WeightsError: a schedule that DDIM cannot have.
    """
    write_ddim(parts, folder, timestep_spacing=timestep_spacing)
    index = kept_index(parts)
    if index["_class_name"] == "StableDiffusionPipeline":  # of the XL one neither is a part
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    index |= {"feature_extractor": [None, None], "image_encoder": [None, None]}
    write_json(folder / "model_index.json", index | {"scheduler": ["diffusers", "DDIMScheduler"]})
    for name, weights in (dict(parts.weights) | {network_name: network}).items():
        write_json(folder / name / "config.json", read_json(get_file(parts.source, f"{name}/config.json")))
        file = CLIP_WEIGHTS if name.startswith("text_encoder") else UNET_WEIGHTS
        save_safetensors(folder / name / file, read_all(weights), dtype=dtype)
    copy_tokenizers(parts.source, folder)


def write_ddim(parts: Parts, folder: Path, *, timestep_spacing: str) -> None:
    """Write the DDIM scheduler that samples as the student of a pipeline does.

    Args:
        parts: of the source.
        folder: to write `SCHEDULER_FILE` into.
        timestep_spacing: empty is that of the source.

    Raises:
        WeightsError: a schedule that DDIM cannot have.
    """
    options = {"timestep_spacing": timestep_spacing}
    scheduler = read_field(parts, SCHEDULER_FILE, lambda: as_ddim(parts.scheduler_config, **options))
    write_json(folder / SCHEDULER_FILE, scheduler)


def write_flow_pipeline(
    parts: Parts, network_name: str, folder: Path, network: Params, *, timestep_spacing: str, dtype: Any
) -> None:
    """Write the pipeline of a flow with another network; all else, the scheduler too, is that of the source.

    Args:
        parts, network_name, folder, network, dtype: as of `write_pipeline`.
        timestep_spacing: empty, as a flow has none.
    """
    assert not timestep_spacing, timestep_spacing
    index = read_json(get_file(parts.source, "model_index.json"))
    written = (*parts.weights, network_name, "scheduler")
    for name, part in index.items():
        if isinstance(part, list) and name not in written and not name.startswith("tokenizer"):
            index[name] = [None, None]  # of a part that is not written, as an image encoder
    write_json(folder / "model_index.json", index)
    write_json(folder / SCHEDULER_FILE, read_json(get_file(parts.source, SCHEDULER_FILE)))
    for name, weights in (dict(parts.weights) | {network_name: network}).items():
        write_json(folder / name / "config.json", read_json(get_file(parts.source, f"{name}/config.json")))
        file = CLIP_WEIGHTS if name.startswith("text_encoder") else UNET_WEIGHTS
        write_sharded(folder / name, file, weights, dtype=dtype)
    copy_tokenizers(parts.source, folder)


def kept_index(parts: Parts) -> dict[str, Any]:
    """Give what an export keeps of model_index.json, under PyTorch's names; a Flax folder had its own."""
    # The file's own: of a published model `parts` knows less.
    index = read_json(get_file(parts.source, "model_index.json"))
    kept = {name: part for name, part in index.items() if name.startswith(_KEPT)}
    return {
        name: [text and text.removeprefix("Flax") for text in part] if isinstance(part, list) else part
        for name, part in (kept | {"_class_name": kept["_class_name"].removeprefix("Flax")}).items()
    }


def copy_tokenizers(source: str, folder: Path) -> None:
    """Copy the tokenizers that the index of a pipeline names, each into its folder."""
    index = read_json(get_file(source, "model_index.json"))
    for tokenizer in (name for name in index if name.startswith("tokenizer") and any(index[name])):
        (folder / tokenizer).mkdir()
        for file in {*TOKENIZER_FILES, *T5_TOKENIZER_FILES}:
            found = find_file(source, f"{tokenizer}/{file}")
            if found is not None and has_mark(found):  # which PyTorch's readers refuse
                (folder / tokenizer / file).write_bytes(read_text(found).encode())
            elif found is not None:
                shutil.copyfile(found, folder / tokenizer / file)
