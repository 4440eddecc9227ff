"""Write model folders in the layout of diffusers and transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from rats_jax.models.convert import save_safetensors
from rats_jax.types import Params

UNET_WEIGHTS = VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"
CLIP_WEIGHTS = "model.safetensors"


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
