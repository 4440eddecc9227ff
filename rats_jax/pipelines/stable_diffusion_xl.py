"""Stable Diffusion XL: a UNet conditioned on two text encoders, a pooled embedding and the picture's size."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import WeightsError
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.clip_text import CLIPTextModel, CLIPTextModelWithProjection
from rats_jax.networks.lora import variables
from rats_jax.networks.unet_2d import UNet2DConditionModel
from rats_jax.pipelines.base import Family, Parts, Pipeline
from rats_jax.pipelines.stable_diffusion import compose_unet_pipeline, latent_size
from rats_jax.types import Array, Params, PromptEmbeds, PromptInputs

_ENCODERS = ("text_encoder", "text_encoder_2")


class XLEmbeds(NamedTuple):
    """What the UNet of SDXL is conditioned on beside the picture's size.

    Attributes:
        tokens: [B, L, D1 + D2] of both text encoders.
        pooled: [B, D2'] of the second one.
    """

    tokens: Array
    pooled: Array


def compose(parts: Parts) -> Pipeline:
    """Compose an SDXL; where its index asks for it, no prompt is a row of zeros.

    Raises:
        WeightsError: parts that do not belong together, or a schedule that is not computed here.
    """
    networks, unet = parts.networks, parts.networks["unet"]
    _check_conditioning(parts)
    uncond_ids = {name: parts.tokenize[name]([""]) for name in _ENCODERS}
    height, width = (networks["vae"].downscale * length for length in latent_size(parts))
    # Height and width of the original, top and left of the crop, height and width of the target, pixels.
    time_ids = np.array([height, width, 0, 0, height, width], np.float32)

    def tokenize(prompts: list[str]) -> PromptInputs:
        return {name: parts.tokenize[name](prompts) for name in _ENCODERS}

    def encode(params: Params, ids: PromptInputs) -> XLEmbeds:
        first, second = (
            networks[name].apply({"params": params[name]}, jnp.asarray(ids[name])) for name in _ENCODERS
        )
        tokens = jnp.concatenate([first.penultimate, second.penultimate], axis=-1)
        return XLEmbeds(tokens, second.projected)

    def encode_fn(params: Params, prompt: PromptInputs) -> PromptEmbeds:
        cond = encode(params, prompt)
        if parts.index.get("force_zeros_for_empty_prompt", True):
            return PromptEmbeds(cond, jax.tree.map(jnp.zeros_like, cond))
        empty = encode(params, uncond_ids)
        return PromptEmbeds(cond, jax.tree.map(lambda x, like: jnp.broadcast_to(x, like.shape), empty, cond))

    def denoise_fn(params: Params, latents: Array, timestep: Array, embeds: XLEmbeds) -> Array:
        sizes = jnp.broadcast_to(time_ids, (embeds.pooled.shape[0], 6))
        outputs: Any = unet.apply(variables(params), latents, timestep, *embeds, sizes)
        return outputs.astype(jnp.float32)

    return compose_unet_pipeline(
        parts,
        tokenize,
        encode_fn,
        denoise_fn,
        text_encoder={name: parts.weights[name] for name in _ENCODERS},
        token_features=sum(networks[name].config.hidden_size for name in _ENCODERS),
    )


def _check_conditioning(parts: Parts) -> None:
    unet, encoder = parts.networks["unet"], parts.networks["text_encoder_2"]
    file = f"'{parts.source}/unet/config.json'"
    if unet.addition_embed_type != "text_time":
        raise WeightsError(
            f"{file}: addition_embed_type={unet.addition_embed_type!r}: expected 'text_time' in a "
            "StableDiffusionXLPipeline"
        )
    expected = encoder.config.projection_dim
    if unet.pooled_dim != expected:
        raise WeightsError(
            f"{file}: projection_class_embeddings_input_dim leaves {unet.pooled_dim} features for the pooled "
            f"embedding: expected {expected}, those of text_encoder_2"
        )


FAMILY = Family(
    networks={
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    },
    compose=compose,
)
