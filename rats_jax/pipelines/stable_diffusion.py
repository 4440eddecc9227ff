"""Stable Diffusion 1.x and 2.x: a UNet conditioned on the tokens of one text encoder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from rats_jax.diffusion.guidance import with_guidance
from rats_jax.diffusion.schedule import get_prediction_type
from rats_jax.errors import WeightsError
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.clip_text import CLIPTextModel
from rats_jax.networks.unet_2d import UNet2DConditionModel
from rats_jax.pipelines.base import Family, Parts, Pipeline, TokenizeFn, make_diffusion_grid_fn, read_field
from rats_jax.pipelines.write import write_pipeline
from rats_jax.pipelines.write_flax import write_flax_pipeline
from rats_jax.types import Array, DecodeFn, DenoiseFn, EncodeFn, Params, PromptEmbeds, PromptInputs
from rats_jax.weights.tokenizers import once_per_prompt

_DECODER = ("decoder", "post_quant_conv")
_SCHEDULER = "scheduler/scheduler_config.json"


def compose(parts: Parts) -> Pipeline:
    """Compose a Stable Diffusion 1.x or 2.x.

    Raises:
        WeightsError: parts that do not belong together, or a schedule that is not computed here.
    """
    unet, text_encoder = parts.networks["unet"], parts.networks["text_encoder"]
    if unet.addition_embed_type is not None:
        raise WeightsError(
            f"'{parts.source}/unet/config.json': addition_embed_type={unet.addition_embed_type!r}: expected "
            "null in a StableDiffusionPipeline"
        )
    tokenize = parts.tokenize["text_encoder"]
    uncond_ids = tokenize([""])

    def denoise_fn(params: Params, latents: Array, timestep: Array, tokens: Array) -> Array:
        return unet.apply({"params": params}, latents, timestep, tokens).astype(jnp.float32)

    def encode_fn(params: Params, prompt: PromptInputs) -> PromptEmbeds:
        cond = text_encoder.apply({"params": params}, prompt).last
        uncond = text_encoder.apply({"params": params}, jnp.asarray(uncond_ids)).last
        return PromptEmbeds(cond, jnp.broadcast_to(uncond, cond.shape))

    return compose_unet_pipeline(
        parts,
        tokenize,
        encode_fn,
        denoise_fn,
        text_encoder=parts.weights["text_encoder"],
        token_features=text_encoder.config.hidden_size,
    )


def compose_unet_pipeline(
    parts: Parts,
    tokenize: TokenizeFn,
    encode_fn: EncodeFn,
    denoise_fn: DenoiseFn,
    *,
    text_encoder: Params,
    token_features: int,
) -> Pipeline:
    """Compose what all pipelines of a UNet share, once text encoders and UNet are functions.

    Args:
        parts: with the folders unet and vae.
        tokenize: prompts -> what encode_fn reads.
        encode_fn: the text encoders.
        denoise_fn: the UNet on the embeddings of one prompt, float32.
        text_encoder: weights of encode_fn.
        token_features: of the embeddings that the text encoders give.

    Raises:
        WeightsError: as `compose`.
    """
    unet, vae, weights = parts.networks["unet"], parts.networks["vae"], parts.weights
    _check_fit(parts, token_features)
    prediction_type = read_field(parts, _SCHEDULER, get_prediction_type, parts.scheduler_config)
    size = unet.sample_size
    height, width = size if isinstance(size, tuple) else (size, size)
    return Pipeline(
        tokenize=once_per_prompt(tokenize),
        encode_fn=encode_fn,
        decode_fn=make_decode_fn(vae),
        guided_fn=functools.partial(with_guidance, denoise_fn),
        evaluations=lambda scale: 1 if scale == 1.0 else 2,
        grid_fn=make_diffusion_grid_fn(parts),
        prediction_type=prediction_type,
        network=weights["unet"],
        text_encoder=text_encoder,
        # The update decodes and never encodes: the encoder's half stays where it is.
        decoder={name: weights["vae"][name] for name in _DECODER if name in weights["vae"]},
        latent_shape=(height, width, unet.in_channels),
        write=functools.partial(write_pipeline, parts, "unet"),
        write_flax=functools.partial(write_flax_pipeline, parts, "unet"),
        network_name="unet",
    )


def make_decode_fn(vae: AutoencoderKL) -> DecodeFn:
    """Wrap a decoder as a DecodeFn of scaled latents, the ones that the diffusion model knows."""

    def decode_fn(params: Params, latents: Array) -> Array:
        unscaled = latents / vae.scaling_factor + (vae.shift_factor or 0.0)
        images: Any = vae.apply({"params": params}, unscaled, method=vae.decode)
        return (images.astype(jnp.float32) + 1.0) / 2.0

    return decode_fn


def _check_fit(parts: Parts, token_features: int) -> None:
    """Refuse a UNet that other latents or other embeddings would have to be made for."""
    unet, channels = parts.networks["unet"], parts.networks["vae"].latent_channels
    found: Mapping[str, tuple[Any, Any]] = {
        "in_channels": (unet.in_channels, channels),
        "out_channels": (unet.out_channels, channels),
        "cross_attention_dim": (unet.cross_attention_dim, token_features),
    }
    for field, (value, expected) in found.items():
        if value != expected:
            other = "text encoder" if field == "cross_attention_dim" else "autoencoder"
            raise WeightsError(
                f"'{parts.source}/unet/config.json': {field}={value!r}: expected {expected} of the {other}"
            )
    if unet.sample_size is None:
        raise WeightsError(f"'{parts.source}/unet/config.json': sample_size=None: expected an integer >= 1")


FAMILY = Family(
    networks={"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel},
    compose=compose,
)
