"""Load a diffusers Stable Diffusion folder: networks as pure functions, weights as float32 trees."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rats_jax.errors import WeightsError
from rats_jax.models import stable_diffusion as sd
from rats_jax.models.folder import CLIP_WEIGHTS, UNET_WEIGHTS, VAE_WEIGHTS, describe, read_json
from rats_jax.models.state_dict import load_safetensors
from rats_jax.models.tokenizer import load_tokenizer, once_per_prompt, tokenize
from rats_jax.types import Array, DecodeFn, DenoiseFn, EncodeFn, Params, PromptEmbeds


@dataclass(frozen=True)
class Pipeline:
    """A text-to-image model as the trainer sees it.

    Attributes:
        denoise_fn: the UNet.
        encode_fn: the text encoder; its prompt inputs are token ids [B, L] int32.
        decode_fn: latents to images.
        tokenize: B prompts -> those prompt inputs, computed once per prompt.
        unet, text_encoder, decoder: weights, float32 NumPy trees.
        scheduler_config: the folder's scheduler_config.json.
        latent_shape: (h, w, C) of one sample.
    """

    denoise_fn: DenoiseFn
    encode_fn: EncodeFn
    decode_fn: DecodeFn
    tokenize: Callable[[list[str]], np.ndarray]
    unet: Params
    text_encoder: Params
    decoder: Params
    scheduler_config: dict[str, Any]
    latent_shape: tuple[int, int, int]


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
        tokenize=once_per_prompt(functools.partial(tokenize, tokenizer)),
        unet=unet_params,
        text_encoder=text_params,
        # The update decodes and never encodes: the encoder's half stays off the device.
        decoder={k: v for k, v in vae_params.items() if k in ("decoder", "post_quant_conv")},
        scheduler_config=scheduler_config,
        latent_shape=(unet.sample_size, unet.sample_size, unet.in_channels),
    )


def _load_network(
    folder: Path, make: Any, init: Any, weights: str, dtype: Any
) -> tuple[dict[str, Any], Any, Params]:
    """Build the network that config.json describes and read its weights."""
    config = read_json(folder / "config.json")
    module, abstract_params = describe(str(folder / "config.json"), lambda: make(config, dtype=dtype), init)
    return config, module, load_safetensors(folder / weights, abstract_params)
