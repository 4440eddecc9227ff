"""What the stages of pretraining share: what is done is kept, what was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from rats_jax.networks import clip
from rats_jax.networks.abstract import abstract_params
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.pretraining.corrupt import CORRUPTIONS, Corruption, latent_noise
from rats_jax.pretraining.dual_encoder import Drawn, DualEncoder, train_dual_encoder
from rats_jax.pretraining.tokenizer import write_tokenizer
from rats_jax.types import Key, Params
from rats_jax.weights.folder import CLIP_WEIGHTS, VAE_WEIGHTS, read_json, write_model
from rats_jax.weights.state_dict import load_safetensors
from rats_jax.weights.tokenizers import load_tokenizer, tokenize


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


class Form(NamedTuple):
    """A form of rewards: what a config.json says besides sizes, and how the network is made of one."""

    marks: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], DualEncoder]


PICTURES = Form(
    {"architectures": ["CLIPModel"], "model_type": "clip"},
    lambda config: DualEncoder(clip.CLIPModel.from_config(config), clip.init_clip, clip.embed_images),
)


def find_corruptions(training: Any, vae_folder: Path) -> dict[str, Corruption]:
    """Find the ways to spoil pictures that a reward's section names, and noise in the latents."""
    vae, vae_params, _ = load_vae(vae_folder)
    named = {kind: CORRUPTIONS[kind] for kind in training.corruptions}
    return named | {"latent_noise": latent_noise(vae, vae_params)}


def train_reward(
    config: Any,
    training: Any,
    folder: Path,
    captions: Sequence[str],
    gather: Callable[[np.ndarray], Any],
    draw_fn: Callable[[Any, Key, int], Drawn],
    corruptions: Mapping[str, Corruption],
    *,
    seed: int,
    start: Path | None = None,
    form: Form = PICTURES,
) -> None:
    """Train one of the rewards of a world and write its folder.

    Args:
        config: of pretraining.
        training: its section on this reward.
        folder: to write, beside that of the pipeline.
        captions: N texts of the world.
        gather: their token ids [N, L] -> what `draw_fn` draws from.
        draw_fn: (data, keys [2], B) -> a batch.
        corruptions: ways to spoil what is drawn, by name.
        seed: of initialisation and draws.
        start: folder of a reward of the same shape to go on from; None starts anew.
        form: of the reward.
    """
    write_tokenizer(captions, folder, **config.tokenizer)
    tokenizer = load_tokenizer(folder)
    model = {
        "text_config": with_tokenizer(training.text_config.to_dict(), tokenizer),
        "vision_config": training.vision_config.to_dict(),
        "projection_dim": training.projection_dim,
        **form.marks,
    }
    encoder = form.make(model)
    data = gather(tokenize(tokenizer, list(captions)))
    params = None
    if start is not None:
        params = load_safetensors(start / CLIP_WEIGHTS, abstract_params(encoder.init, encoder.module))
    with training_state(folder) as file:
        params = train_dual_encoder(
            data, draw_fn, encoder, corruptions, training, seed=seed, start=params, state_file=file
        )
        write_model(folder, model, params, CLIP_WEIGHTS)
