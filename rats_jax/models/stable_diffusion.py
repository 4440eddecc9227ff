"""Stable Diffusion's three networks behind the contracts of `rats_jax.types`: NHWC, float32, [0, 1]."""

from __future__ import annotations

import inspect
from typing import Any

import jax.numpy as jnp
from diffusers.models.unets.unet_2d_condition_flax import FlaxUNet2DConditionModel
from diffusers.models.vae_flax import FlaxAutoencoderKL
from transformers import CLIPTextConfig, FlaxCLIPTextModel

from rats_jax.types import Array, DecodeFn, DenoiseFn, Key, Params


def _known_fields(module: type, config: dict[str, Any]) -> dict[str, Any]:
    """Keep what the Flax class knows: PyTorch configs have more (downsample_padding, ...)."""
    known = inspect.signature(module).parameters
    return {
        k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in known and v is not None
    }


def make_unet(config: dict[str, Any], *, dtype: Any = jnp.float32) -> FlaxUNet2DConditionModel:
    """Build the UNet from a diffusers `unet/config.json` (as a dict); `dtype` is the compute dtype."""
    return FlaxUNet2DConditionModel(**_known_fields(FlaxUNet2DConditionModel, config), dtype=dtype)


def make_vae(config: dict[str, Any], *, dtype: Any = jnp.float32) -> FlaxAutoencoderKL:
    """Build the autoencoder from a diffusers `vae/config.json` (as a dict); `dtype` is the compute dtype."""
    return FlaxAutoencoderKL(**_known_fields(FlaxAutoencoderKL, config), dtype=dtype)


def make_text_encoder(config: dict[str, Any], *, dtype: Any = jnp.float32) -> Any:
    """Build the linen module of a CLIP text encoder from a transformers `config.json` (as a dict)."""
    return FlaxCLIPTextModel(CLIPTextConfig(**config), dtype=dtype, _do_init=False).module


def init_unet(unet: FlaxUNet2DConditionModel, key: Key) -> Params:
    """Initialise UNet weights with `key`; float32."""
    latents = jnp.zeros((1, unet.in_channels, unet.sample_size, unet.sample_size))
    embeds = jnp.zeros((1, 1, unet.cross_attention_dim))
    return unet.init(key, latents, jnp.zeros((1,), jnp.int32), embeds)["params"]


def init_vae(vae: FlaxAutoencoderKL, key: Key) -> Params:
    """Initialise autoencoder weights with `key`; float32."""
    return vae.init(key, jnp.zeros((1, vae.in_channels, vae.sample_size, vae.sample_size)))["params"]


def init_text_encoder(text_encoder: Any, key: Key) -> Params:
    """Initialise text-encoder weights with `key`; float32."""
    ids = jnp.zeros((1, text_encoder.config.max_position_embeddings), jnp.int32)
    return text_encoder.init(key, ids, jnp.ones_like(ids), jnp.zeros_like(ids))["params"]


def make_denoise_fn(unet: FlaxUNet2DConditionModel) -> DenoiseFn:
    """Wrap the UNet, which takes and returns NCHW, as a `DenoiseFn`."""

    def denoise_fn(params: Params, latents: Array, timestep: Array, embeds: Array) -> Array:
        timesteps = jnp.broadcast_to(timestep, (latents.shape[0],))
        outputs: Any = unet.apply({"params": params}, latents.transpose(0, 3, 1, 2), timesteps, embeds)
        return outputs.sample.transpose(0, 2, 3, 1).astype(jnp.float32)

    return denoise_fn


def encode_text(text_encoder: Any, params: Params, input_ids: Array) -> Array:
    """Run the text encoder on token ids.

    Args:
        text_encoder: from `make_text_encoder`.
        params: its weights.
        input_ids: [B, L] int32, padded to the tokenizer's length; as in Stable Diffusion, not masked.

    Returns:
        [B, L, D] last hidden state after the final layer norm.
    """
    positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape)
    outputs = text_encoder.apply({"params": params}, input_ids, jnp.ones_like(input_ids), positions)
    return outputs.last_hidden_state


def encode_moments(vae: FlaxAutoencoderKL, params: Params, images: Array) -> tuple[Array, Array]:
    """Encode images to the posterior's moments.

    Args:
        vae: from `make_vae`.
        params: its weights.
        images: [B, H, W, 3] in [0, 1].

    Returns:
        Mean and log variance, [B, h, w, C] float32 each, before the scaling factor.
    """
    sample = (2.0 * images - 1.0).transpose(0, 3, 1, 2)
    outputs: Any = vae.apply({"params": params}, sample, method=vae.encode)
    posterior = outputs.latent_dist
    return posterior.mean.astype(jnp.float32), posterior.logvar.astype(jnp.float32)


def decode_raw(vae: FlaxAutoencoderKL, params: Params, latents: Array) -> Array:
    """Decode unscaled latents [B, h, w, C] to images [B, H, W, 3] float32, not clipped to [0, 1]."""
    outputs: Any = vae.apply({"params": params}, latents, method=vae.decode)
    return (outputs.sample.transpose(0, 2, 3, 1).astype(jnp.float32) + 1.0) / 2.0


def make_decode_fn(vae: FlaxAutoencoderKL, *, scaling_factor: float) -> DecodeFn:
    """Wrap the decoder as a `DecodeFn` of scaled latents, the ones that the diffusion model knows."""

    def decode_fn(params: Params, latents: Array) -> Array:
        return decode_raw(vae, params, latents / scaling_factor)

    return decode_fn
