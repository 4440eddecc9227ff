"""FLUX.1 [dev] and [schnell]: a transformer conditioned on T5's tokens and on CLIP's pooled prompt."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rats_jax.diffusion.schedule import get_prediction_type
from rats_jax.errors import WeightsError
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.clip_text import CLIPTextModel
from rats_jax.networks.flux import FluxTransformer2DModel
from rats_jax.networks.lora import variables
from rats_jax.networks.t5 import T5EncoderModel
from rats_jax.pipelines.base import (
    SCHEDULER_FILE,
    Family,
    Parts,
    Pipeline,
    check_fit,
    decoder_of,
    make_decode_fn,
    make_flow_grid_fn,
    read_field,
)
from rats_jax.pipelines.write import write_flow_pipeline
from rats_jax.types import Array, DenoiseFn, Params, PromptEmbeds, PromptInputs
from rats_jax.weights.tokenizers import once_per_prompt

_ENCODERS = ("text_encoder", "text_encoder_2")
# Height and width of the latents of one token, and of a picture of 512 x 512.
_PATCH, _SIZE = 2, 64
_UNITS = 1000.0


class FluxEmbeds(NamedTuple):
    """What the transformer of FLUX is conditioned on.

    Attributes:
        tokens: [B, L, D] of T5, those that fill the prompt up among them.
        pooled: [B, D'] of CLIP.
    """

    tokens: Array
    pooled: Array


def compose(parts: Parts) -> Pipeline:
    """Compose a FLUX.1; whether it is told a guidance scale is what dev and schnell differ in.

    Raises:
        WeightsError: parts that do not belong together, or a schedule that is not computed here.
        ConfigError: a picture of no such size.
    """
    transformer, vae = parts.networks["transformer"], parts.networks["vae"]
    clip, t5 = (parts.networks[name] for name in _ENCODERS)
    check_fit(
        parts,
        "transformer",
        {
            "in_channels": (_PATCH**2 * vae.latent_channels, "the autoencoder"),
            "joint_attention_dim": (t5.config.d_model, "text_encoder_2"),
            "pooled_projection_dim": (clip.config.hidden_size, "text_encoder"),
        },
    )
    prediction_type = read_field(parts, SCHEDULER_FILE, get_prediction_type, parts.scheduler_config)
    if prediction_type != "flow":
        raise WeightsError(f"'{parts.source}/{SCHEDULER_FILE}': expected the scheduler of a flow")
    size = parts.latent_size((_SIZE, _SIZE), vae.downscale, multiple=_PATCH * vae.downscale)
    image_ids = image_positions(*size)

    def tokenize(prompts: list[str]) -> PromptInputs:
        return {name: parts.tokenize[name](prompts) for name in _ENCODERS}

    def encode_fn(params: Params, prompt: PromptInputs) -> PromptEmbeds:
        pooled = clip.apply({"params": params["text_encoder"]}, prompt["text_encoder"]).pooled
        tokens = t5.apply({"params": params["text_encoder_2"]}, prompt["text_encoder_2"])
        return PromptEmbeds(FluxEmbeds(tokens, pooled), None)

    def guided_fn(guidance_scale: Array | float) -> DenoiseFn:
        def denoise_fn(params: Params, latents: Array, timestep: Array, embeds: PromptEmbeds) -> Array:
            rows = latents.shape[0]
            tokens, pooled = embeds.cond
            scale = jnp.full(rows, _UNITS * guidance_scale, jnp.float32)
            velocity: Any = transformer.apply(
                variables(params),
                pack(latents),
                tokens,
                pooled,
                jnp.broadcast_to(jnp.asarray(timestep, jnp.float32), rows),
                scale if transformer.guidance_embeds else None,
                image_ids=image_ids,
                text_ids=np.zeros((tokens.shape[1], 3), int),
            )
            return unpack(velocity.astype(jnp.float32), latents.shape)

        return denoise_fn

    def evaluations(guidance_scale: float) -> int:
        if not transformer.guidance_embeds and guidance_scale != 1.0:
            raise ValueError(f"guidance_scale={guidance_scale}: expected 1: this model is told no guidance")
        return 1

    return Pipeline(
        tokenize=once_per_prompt(tokenize),
        encode_fn=encode_fn,
        decode_fn=make_decode_fn(vae),
        guided_fn=guided_fn,
        evaluations=evaluations,
        grid_fn=make_flow_grid_fn(parts, len(image_ids)),
        prediction_type=prediction_type,
        network=parts.weights["transformer"],
        text_encoder={name: parts.weights[name] for name in _ENCODERS},
        decoder=decoder_of(parts.weights["vae"]),
        latent_shape=(*size, vae.latent_channels),
        write=functools.partial(write_flow_pipeline, parts, "transformer"),
        write_flax=None,
        network_name="transformer",
        num_steps=50 if transformer.guidance_embeds else 4,
        guidance_scale=3.5 if transformer.guidance_embeds else 1.0,
    )


def image_positions(height: int, width: int) -> np.ndarray:
    """List where the tokens of latents [B, height, width, C] are: [L, 3] of 0, row and column."""
    size = height // _PATCH, width // _PATCH
    return np.stack([np.zeros(size, int), *np.indices(size)], axis=-1).reshape(-1, 3)


def pack(latents: Array) -> Array:
    """Cut latents [B, h, w, C] into tokens of 2 x 2 positions, channels first: [B, h / 2 * w / 2, 4 C]."""
    batch, height, width, channels = latents.shape
    grid = latents.reshape(batch, height // _PATCH, _PATCH, width // _PATCH, _PATCH, channels)
    return grid.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, channels * _PATCH**2)


def unpack(tokens: Array, shape: tuple[int, ...]) -> Array:
    """Undo `pack`; `shape` is that of the latents."""
    batch, height, width, channels = shape
    grid = tokens.reshape(batch, height // _PATCH, width // _PATCH, channels, _PATCH, _PATCH)
    return grid.transpose(0, 1, 4, 2, 5, 3).reshape(shape)


FAMILY = Family(
    networks={
        "transformer": FluxTransformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": T5EncoderModel,
    },
    compose=compose,
    max_sequence_length=lambda networks: 512 if networks["transformer"].guidance_embeds else 256,
)
