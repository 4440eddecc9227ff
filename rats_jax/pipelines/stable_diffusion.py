"""Stable Diffusion's networks behind the contracts of `rats_jax.types`: NHWC, float32, [0, 1]."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from diffusers.models.attention_flax import FlaxGEGLU, FlaxTransformer2DModel
from diffusers.models.unets.unet_2d_condition_flax import FlaxUNet2DConditionModel
from diffusers.models.vae_flax import FlaxAutoencoderKL
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_flax_clip import (
    FlaxCLIPTextModelWithProjectionModule,
    FlaxCLIPTextModule,
)

from rats_jax.networks.flax_group_norm import replace_group_norm
from rats_jax.types import Array, DecodeFn, DenoiseFn, Key, Params


class XLEmbeds(NamedTuple):
    """What the UNet of SDXL is conditioned on.

    Attributes:
        tokens: [B, L, D1 + D2] of both text encoders.
        pooled: [B, D2'] of the second one.
        time_ids: [B, 6] float32: height and width of the original, top and left of the crop, height and width
            of the target, pixels.
    """

    tokens: Array
    pooled: Array
    time_ids: Array


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
    return FlaxCLIPTextModule(CLIPTextConfig(**config), dtype=dtype)


def make_pooling_text_encoder(config: dict[str, Any], *, dtype: Any = jnp.float32) -> Any:
    """Build the linen module of a CLIP text encoder with a projection, SDXL's second one."""
    return FlaxCLIPTextModelWithProjectionModule(CLIPTextConfig(**config), dtype=dtype)


def is_xl(unet: FlaxUNet2DConditionModel) -> bool:
    """Tell whether a UNet is conditioned on XLEmbeds; all others on token embeddings alone."""
    return unet.addition_embed_type == "text_time"


def init_unet(unet: FlaxUNet2DConditionModel, key: Key) -> Params:
    """Initialise UNet weights with `key`; float32."""
    latents = jnp.zeros((1, unet.in_channels, unet.sample_size, unet.sample_size))
    embeds = jnp.zeros((1, 1, unet.cross_attention_dim))
    added = None
    if is_xl(unet):
        time_ids = jnp.zeros((1, 6))
        # Both libraries leave the width of the pooled embedding to be worked out from the sum of the two.
        pooled = (unet.projection_class_embeddings_input_dim or 0) - 6 * (unet.addition_time_embed_dim or 0)
        added = {"text_embeds": jnp.zeros((1, pooled)), "time_ids": time_ids}
    return unet.init(key, latents, jnp.zeros((1,), jnp.int32), embeds, added)["params"]


def init_vae(vae: FlaxAutoencoderKL, key: Key) -> Params:
    """Initialise autoencoder weights with `key`; float32."""
    return vae.init(key, jnp.zeros((1, vae.in_channels, vae.sample_size, vae.sample_size)))["params"]


def init_text_encoder(text_encoder: Any, key: Key) -> Params:
    """Initialise text-encoder weights with `key`; float32."""
    ids = jnp.zeros((1, text_encoder.config.max_position_embeddings), jnp.int32)
    return text_encoder.init(key, ids, jnp.ones_like(ids), jnp.zeros_like(ids))["params"]


def make_denoise_fn(unet: FlaxUNet2DConditionModel) -> DenoiseFn:
    """Wrap the UNet, which takes and returns NCHW, as a `DenoiseFn`; SDXL's reads XLEmbeds."""

    def denoise_fn(params: Params, latents: Array, timestep: Array, embeds: Any) -> Array:
        timesteps = jnp.broadcast_to(timestep, (latents.shape[0],))
        tokens, added = embeds, None
        if is_xl(unet):
            tokens, added = embeds.tokens, {"text_embeds": embeds.pooled, "time_ids": embeds.time_ids}
        with nn.intercept_methods(_as_in_pytorch):
            outputs: Any = unet.apply(
                {"params": params}, latents.transpose(0, 3, 1, 2), timesteps, tokens, added
            )
        return outputs.sample.transpose(0, 2, 3, 1).astype(jnp.float32)

    return denoise_fn


def _as_in_pytorch(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Do what the PyTorch original does where the Flax classes differ: the exact GELU, a norm's epsilon.

    And normalise groups in a form that costs less.
    """
    module = context.module
    if context.method_name != "__call__":
        return next_fn(*args, **kwargs)
    if isinstance(module, FlaxGEGLU):
        linear, gate = jnp.split(module.proj(args[0]), 2, axis=-1)
        return linear * jax.nn.gelu(gate, approximate=False)
    if isinstance(module, nn.GroupNorm):
        of_transformer = isinstance(module.parent, FlaxTransformer2DModel)
        return replace_group_norm(module, args[0], epsilon=1e-6 if of_transformer else None)
    return next_fn(*args, **kwargs)


def encode_text(text_encoder: Any, params: Params, input_ids: Array) -> Array:
    """Run the text encoder on token ids.

    Args:
        text_encoder: from `make_text_encoder`.
        params: its weights.
        input_ids: [B, L] int32, padded to the tokenizer's length; as in Stable Diffusion, not masked.

    Returns:
        [B, L, D] last hidden state after the final layer norm.
    """
    return _run_text_encoder(text_encoder, params, input_ids).last_hidden_state


def encode_text_xl(text_encoder: Any, params: Params, input_ids: Array) -> tuple[Array, Array | None]:
    """Run one of SDXL's text encoders on token ids.

    Args:
        text_encoder: from `make_text_encoder` or `make_pooling_text_encoder`.
        params: its weights.
        input_ids: [B, L] int32.

    Returns:
        [B, L, D], the hidden state that enters the last layer, and the pooled embedding [B, D'] or None.
    """
    outputs = _run_text_encoder(text_encoder, params, input_ids, output_hidden_states=True)
    return outputs.hidden_states[-2], getattr(outputs, "text_embeds", None)


def _run_text_encoder(text_encoder: Any, params: Params, input_ids: Array, **options: bool) -> Any:
    positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape)
    return text_encoder.apply({"params": params}, input_ids, jnp.ones_like(input_ids), positions, **options)


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
    with nn.intercept_methods(_as_in_pytorch):
        outputs: Any = vae.apply({"params": params}, sample, method=vae.encode)
    posterior = outputs.latent_dist
    return posterior.mean.astype(jnp.float32), posterior.logvar.astype(jnp.float32)


def decode_raw(vae: FlaxAutoencoderKL, params: Params, latents: Array) -> Array:
    """Decode unscaled latents [B, h, w, C] to images [B, H, W, 3] float32, not clipped to [0, 1]."""
    with nn.intercept_methods(_as_in_pytorch):
        outputs: Any = vae.apply({"params": params}, latents, method=vae.decode)
    return (outputs.sample.transpose(0, 2, 3, 1).astype(jnp.float32) + 1.0) / 2.0


def make_decode_fn(vae: FlaxAutoencoderKL, *, scaling_factor: float) -> DecodeFn:
    """Wrap the decoder as a `DecodeFn` of scaled latents, the ones that the diffusion model knows."""

    def decode_fn(params: Params, latents: Array) -> Array:
        return decode_raw(vae, params, latents / scaling_factor)

    return decode_fn
