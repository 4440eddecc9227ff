"""Stable Diffusion 3 and 3.5: a transformer conditioned on two CLIP encoders, and on T5 where it is there."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rats_jax.diffusion.guidance import with_guidance
from rats_jax.diffusion.schedule import get_prediction_type
from rats_jax.errors import WeightsError
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.clip_text import CLIPTextModelWithProjection
from rats_jax.networks.layers import match_batch
from rats_jax.networks.lora import variables
from rats_jax.networks.sd3 import PATCH, SD3Transformer2DModel
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
from rats_jax.types import Array, Params, PromptEmbeds, PromptInputs
from rats_jax.weights.tokenizers import once_per_prompt

_CLIPS, _T5 = ("text_encoder", "text_encoder_2"), "text_encoder_3"
_T5_TOKENS = 256


class SD3Embeds(NamedTuple):
    """What the transformer of SD3 is conditioned on.

    Attributes:
        tokens: [B, L, D]: those of both CLIP encoders side by side, filled up with zeros, then those of T5,
            zeros without it.
        pooled: [B, D'] of both CLIP encoders.
    """

    tokens: Array
    pooled: Array


def compose(parts: Parts) -> Pipeline:
    """Compose a Stable Diffusion 3.

    Raises:
        WeightsError: parts that do not belong together, or a schedule that is not computed here.
        ConfigError: a picture of no such size.
    """
    networks, transformer, vae = parts.networks, parts.networks["transformer"], parts.networks["vae"]
    clips, t5 = [networks[name] for name in _CLIPS], networks.get(_T5)
    width = transformer.joint_attention_dim
    check_fit(
        parts,
        "transformer",
        {
            "in_channels": (vae.latent_channels, "the autoencoder"),
            "joint_attention_dim": (width if t5 is None else t5.config.d_model, _T5),
            "pooled_projection_dim": (
                sum(clip.config.projection_dim for clip in clips),
                " and ".join(_CLIPS),
            ),
        },
    )
    side_by_side = sum(clip.config.hidden_size for clip in clips)
    if side_by_side > width:
        raise WeightsError(
            f"'{parts.source}/transformer/config.json': joint_attention_dim={width}: expected at least "
            f"{side_by_side} of {' and '.join(_CLIPS)}"
        )
    prediction_type = read_field(parts, SCHEDULER_FILE, get_prediction_type, parts.scheduler_config)
    if prediction_type != "flow":
        raise WeightsError(f"'{parts.source}/{SCHEDULER_FILE}': expected the scheduler of a flow")
    size = parts.latent_size((transformer.sample_size,) * 2, vae.downscale, multiple=PATCH * vae.downscale)
    rows, columns = (length // PATCH for length in size)
    for field, count in (("height", rows), ("width", columns)):
        most = transformer.pos_embed_max_size
        if count > most:
            raise WeightsError(
                f"{field}={count * PATCH * vae.downscale}: expected at most {most * PATCH * vae.downscale}, "
                f"pos_embed_max_size={most} of {parts.source!r}"
            )
    encoders = [name for name in (*_CLIPS, _T5) if name in networks]
    empty_ids = {name: parts.tokenize[name]([""]) for name in encoders}
    t5_length = parts.options.max_sequence_length or _T5_TOKENS

    def tokenize(prompts: list[str]) -> PromptInputs:
        return {name: parts.tokenize[name](prompts) for name in encoders}

    def encode(params: Params, ids: PromptInputs) -> SD3Embeds:
        outputs = [
            clip.apply({"params": params[name]}, jnp.asarray(ids[name]))
            for name, clip in zip(_CLIPS, clips, strict=True)
        ]
        tokens = jnp.concatenate([output.penultimate for output in outputs], axis=-1)
        tokens = jnp.pad(tokens, ((0, 0), (0, 0), (0, width - side_by_side)))
        if t5 is None:
            more = jnp.zeros((tokens.shape[0], t5_length, width), tokens.dtype)
        else:
            more = t5.apply({"params": params[_T5]}, jnp.asarray(ids[_T5])).astype(tokens.dtype)
        pooled = jnp.concatenate([output.projected for output in outputs], axis=-1)
        return SD3Embeds(jnp.concatenate([tokens, more], axis=1), pooled)

    def encode_fn(params: Params, prompt: PromptInputs) -> PromptEmbeds:
        cond, empty = encode(params, prompt), encode(params, empty_ids)
        return PromptEmbeds(cond, jax.tree.map(lambda x, like: jnp.broadcast_to(x, like.shape), empty, cond))

    def denoise_fn(params: Params, latents: Array, timestep: Array, embeds: SD3Embeds) -> Array:
        latents, _ = match_batch(latents, embeds.pooled)
        level = jnp.broadcast_to(jnp.asarray(timestep, jnp.float32), latents.shape[0])
        velocity: Any = transformer.apply(variables(params), latents, *embeds, level)
        return velocity.astype(jnp.float32)

    return Pipeline(
        tokenize=once_per_prompt(tokenize),
        encode_fn=encode_fn,
        decode_fn=make_decode_fn(vae),
        guided_fn=functools.partial(with_guidance, denoise_fn),
        evaluations=lambda scale: 1 if scale == 1.0 else 2,
        grid_fn=make_flow_grid_fn(parts, rows * columns),
        prediction_type=prediction_type,
        network=parts.weights["transformer"],
        text_encoder={name: parts.weights[name] for name in encoders},
        decoder=decoder_of(parts.weights["vae"]),
        latent_shape=(*size, vae.latent_channels),
        write=functools.partial(write_flow_pipeline, parts, "transformer"),
        write_flax=None,
        network_name="transformer",
        num_steps=28,
        guidance_scale=7.0,
        has_constants=True,  # the table of positions
    )


FAMILY = Family(
    networks={
        "transformer": SD3Transformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        _T5: T5EncoderModel,
    },
    compose=compose,
    optional=frozenset({_T5}),
    max_sequence_length=lambda networks: _T5_TOKENS,
)
