"""Load a diffusers Stable Diffusion folder: networks as pure functions, weights as float32 trees."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from transformers import CLIPTextConfig, CLIPTokenizer

from rats_jax.models import stable_diffusion as sd
from rats_jax.models.convert import WeightsError, load_safetensors
from rats_jax.models.folder import CLIP_WEIGHTS, UNET_WEIGHTS, VAE_WEIGHTS
from rats_jax.types import Array, DecodeFn, DenoiseFn, EncodeFn, Params, PromptEmbeds


@dataclass(frozen=True)
class Pipeline:
    """A text-to-image model as the trainer sees it.

    Attributes:
        denoise_fn: the UNet.
        encode_fn: the text encoder; its prompt inputs are token ids [B, L] int32.
        decode_fn: latents to images.
        unet, text_encoder, decoder: weights, float32 NumPy trees.
        scheduler_config: the folder's scheduler_config.json.
        tokenizer: the folder's CLIP tokenizer.
        latent_shape: (h, w, C) of one sample.
    """

    denoise_fn: DenoiseFn
    encode_fn: EncodeFn
    decode_fn: DecodeFn
    unet: Params
    text_encoder: Params
    decoder: Params
    scheduler_config: dict[str, Any]
    tokenizer: CLIPTokenizer
    latent_shape: tuple[int, int, int]

    def tokenize(self, prompts: list[str]) -> np.ndarray:
        """Give the prompt inputs of `encode_fn` for a list of B prompts."""
        return tokenize(self.tokenizer, prompts)


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> np.ndarray:
    """Turn prompts into ids [B, L] int32, padded and cut to the tokenizer's length."""
    ids = tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    return np.asarray(ids.input_ids, np.int32)


def load_tokenizer(folder: Path, text_config: CLIPTextConfig | None = None) -> CLIPTokenizer:
    """Load the CLIP tokenizer whose vocab.json and merges.txt lie in `folder`.

    Args:
        folder: of the tokenizer.
        text_config: of the encoder that will read its tokens, to check that they fit; None checks nothing.

    Returns:
        The tokenizer.

    Raises:
        WeightsError: files are missing or damaged, or it gives more tokens than the text encoder has.
    """
    for file in ("vocab.json", "merges.txt"):
        if not (folder / file).is_file():
            raise WeightsError(f"model folder lacks {str(folder / file)!r}: expected a CLIP tokenizer")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    except Exception as error:  # a damaged file fails in as many ways as it has lines
        reason = " ".join(str(error).split())
        raise WeightsError(f"{str(folder)!r} is no CLIP tokenizer: {reason}") from None
    for name, value, limit in (
        ("length", tokenizer.model_max_length, "max_position_embeddings"),
        ("vocabulary", len(tokenizer), "vocab_size"),
    ):
        if text_config is not None and value > getattr(text_config, limit):
            raise WeightsError(
                f"{str(folder)!r} has a {name} of {value}, expected at most "
                f"{limit}={getattr(text_config, limit)} of the text encoder"
            )
    return tokenizer


def read_json(file: Path) -> dict[str, Any]:
    """Read one of a model folder's JSON files.

    Raises:
        WeightsError: it is missing or no JSON object.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"model folder lacks {str(file)!r}: expected a diffusers folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{str(file)!r} is no JSON file: {error}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{str(file)!r} holds a {type(content).__name__}, expected a JSON object")
    return content


def load_pipeline(folder: str | Path, *, dtype: Any = jnp.float32) -> Pipeline:
    """Load a diffusers Stable Diffusion folder with safetensors weights.

    Args:
        folder: holds model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/.
        dtype: compute dtype of the networks; inputs, outputs and weights stay float32.

    Returns:
        The pipeline.

    Raises:
        WeightsError: the folder is not such a folder, or weights are missing, extra or mis-shaped.
    """
    folder = Path(folder)
    kind = read_json(folder / "model_index.json").get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise WeightsError(f"{str(folder)!r} is a {kind!r} folder, expected a 'StableDiffusionPipeline'")
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    _, unet, unet_params = _load_network(folder / "unet", sd.make_unet, sd.init_unet, UNET_WEIGHTS, dtype)
    vae_config, vae, vae_params = _load_network(folder / "vae", sd.make_vae, sd.init_vae, VAE_WEIGHTS, dtype)
    _, text_encoder, text_params = _load_network(
        folder / "text_encoder", sd.make_text_encoder, sd.init_text_encoder, CLIP_WEIGHTS, dtype
    )
    scaling_factor = vae_config.get("scaling_factor", 0.18215)
    if not isinstance(scaling_factor, int | float) or scaling_factor <= 0:
        raise WeightsError(
            f"scaling_factor is {scaling_factor!r} in {str(folder / 'vae')!r}, expected a number > 0"
        )
    tokenizer = load_tokenizer(folder / "tokenizer", text_encoder.config)
    uncond_ids = tokenize(tokenizer, [""])

    def encode_fn(params: Params, prompt: Array) -> PromptEmbeds:
        cond = sd.encode_text(text_encoder, params, prompt)
        uncond = sd.encode_text(text_encoder, params, jnp.asarray(uncond_ids))
        return PromptEmbeds(cond, jnp.broadcast_to(uncond, cond.shape))

    return Pipeline(
        denoise_fn=sd.make_denoise_fn(unet),
        encode_fn=encode_fn,
        decode_fn=sd.make_decode_fn(vae, scaling_factor=scaling_factor),
        unet=unet_params,
        text_encoder=text_params,
        # The update decodes and never encodes: the encoder's half stays off the device.
        decoder={k: v for k, v in vae_params.items() if k in ("decoder", "post_quant_conv")},
        scheduler_config=scheduler_config,
        tokenizer=tokenizer,
        latent_shape=(unet.sample_size, unet.sample_size, unet.in_channels),
    )


def _load_network(
    folder: Path, make: Any, init: Any, weights: str, dtype: Any
) -> tuple[dict[str, Any], Any, Params]:
    """Build the network that config.json describes and read its weights."""
    config = read_json(folder / "config.json")
    module, abstract_params = describe(folder, lambda: make(config, dtype=dtype), init)
    return config, module, load_safetensors(folder / weights, abstract_params)


def describe(folder: Path, make: Callable[[], Any], init: Any) -> tuple[Any, Params]:
    """Build a network and the shapes of its weights.

    Args:
        folder: for the message.
        make: gives the linen module.
        init: (module, key) -> weights.

    Raises:
        WeightsError: the libraries cannot build a network from this config.
    """
    try:
        module = make()
        return module, sd.abstract_params(init, module)
    except Exception as error:  # whatever a wrong field leads to, deep inside the libraries
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(
            f"{str(folder / 'config.json')!r} describes no network known here: {reason}"
        ) from None
