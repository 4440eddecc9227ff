"""What the stages of pretraining share: what is done is kept, what was stopped goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import logging

from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.types import Params
from rats_jax.weights.folder import VAE_WEIGHTS, read_json
from rats_jax.weights.state_dict import load_safetensors


def is_done(file: Path) -> bool:
    """Tell whether a stage has written its last file, and log that it is kept."""
    if file.exists():
        logging.info("keeping %s", file.parent)
    return file.exists()


@contextmanager
def training_state(folder: Path) -> Iterator[Path]:
    """Give the file beside `folder` for the state of its training; it goes once the folder is written."""
    file = folder.with_name(folder.name + ".state")
    file.parent.mkdir(parents=True, exist_ok=True)
    yield file
    file.unlink(missing_ok=True)


def load_vae(folder: Path) -> tuple[AutoencoderKL, Params, float]:
    """Load the autoencoder, its weights and its scaling factor."""
    vae = AutoencoderKL.from_config(read_json(folder / "config.json"))
    return vae, load_safetensors(folder / VAE_WEIGHTS, vae.abstract_params()), vae.scaling_factor


def with_tokenizer(text_config: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Give a CLIPTextConfig the sizes and marks of a tokenizer."""
    return text_config | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
