"""Wan2.1 from text to video: a transformer conditioned on the tokens of a UMT5 encoder."""

from __future__ import annotations

import dataclasses
import functools
import html
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ftfy
import jax.numpy as jnp
import numpy as np

from rats_jax.diffusion.guidance import with_guidance
from rats_jax.diffusion.scheduler_config import FLOW_CLASS, read_scheduler_config
from rats_jax.errors import WeightsError, expect
from rats_jax.fields import Field, only, read_fields
from rats_jax.networks.autoencoder_kl_wan import AutoencoderKLWan, decode_clip
from rats_jax.networks.layers import match_batch
from rats_jax.networks.lora import variables
from rats_jax.networks.t5 import UMT5EncoderModel
from rats_jax.networks.wan import WanTransformer3DModel
from rats_jax.pipelines.base import (
    SCHEDULER_FILE,
    VIDEO_OPTIONS,
    Family,
    Parts,
    Pipeline,
    check_fit,
    decoder_of,
    make_flow_grid_fn,
    read_field,
)
from rats_jax.pipelines.write import write_flow_pipeline
from rats_jax.types import Array, DecodeFn, Params, PromptEmbeds, PromptInputs
from rats_jax.weights.folder import read_json, write_json
from rats_jax.weights.tokenizers import once_per_prompt

_ENCODER = "text_encoder"
# Of a clip in pixels: frames, height, width.
_FRAMES, _HEIGHT, _WIDTH = 81, 480, 832
_TOKENS = 512
# Small weights whose rounding is seen: PyTorch's class keeps them in float32, too.
_FLOAT32 = "time_embedder|scale_shift_table|/norm2/"
_NATIVE = (
    (r"\battn1\.", "self_attn."),
    (r"\battn2\.", "cross_attn."),
    (r"\bto_([qkv])$", r"\1"),
    (r"\bto_out\.0$", "o"),
    (r"\bffn\.net\.0\.proj$", "ffn.0"),
    (r"\bffn\.net\.2$", "ffn.2"),
    (r"^condition_embedder\.time_proj$", "time_projection.1"),
    (r"^condition_embedder\.(time|text)_embedder\.linear_1$", r"\1_embedding.0"),
    (r"^condition_embedder\.(time|text)_embedder\.linear_2$", r"\1_embedding.2"),
    (r"^proj_out$", "head.head"),
)
# Of Wan2.2, whose second transformer takes over below a level of noise.
_INDEX: Mapping[str, Field] = {
    "transformer_2": Field(None, lambda value: value in (None, [None, None]), "[null, null]"),
    "boundary_ratio": only(None),
    "expand_timesteps": only(False),
}


def compose(parts: Parts) -> Pipeline:
    """Compose a Wan2.1 that makes videos of prompts.

    Raises:
        WeightsError: parts that do not belong together, or a schedule that is not computed here.
        ConfigError: a clip of no such length or size.
    """
    transformer, vae = parts.networks["transformer"], parts.networks["vae"]
    encoder, options = parts.networks[_ENCODER], parts.options
    read_field(parts, "model_index.json", lambda: read_fields(parts.index, _INDEX, ignored=parts.index))
    expected = {
        "in_channels": (vae.latent_channels, "the autoencoder"),
        "out_channels": (vae.latent_channels, "the autoencoder"),
        "text_dim": (encoder.config.d_model, _ENCODER),
    }
    check_fit(parts, "transformer", expected)
    flow = dataclasses.replace(parts, scheduler_config=read_flow(parts))
    ids_of, negative = parts.tokenize[_ENCODER], clean(options.negative_prompt)
    negative_ids, filling = ids_of([negative]), ids_of([""])[0, -1]

    def tokenize(prompts: list[str]) -> PromptInputs:
        return ids_of([clean(prompt) for prompt in prompts])

    def encode(params: Params, ids: Array) -> Array:
        shown = is_prompt(ids, filling)
        tokens: Any = encoder.apply({"params": params}, ids, shown)
        return jnp.where(shown[..., None], tokens, jnp.zeros((), tokens.dtype))

    def encode_fn(params: Params, prompt: PromptInputs) -> PromptEmbeds:
        cond, uncond = encode(params, jnp.asarray(prompt)), encode(params, jnp.asarray(negative_ids))
        return PromptEmbeds(cond, jnp.broadcast_to(uncond, cond.shape))

    def denoise_fn(params: Params, latents: Array, timestep: Array, tokens: Array) -> Array:
        latents, _ = match_batch(latents, tokens)
        level = jnp.broadcast_to(jnp.asarray(timestep, jnp.float32), latents.shape[0])
        velocity: Any = transformer.apply(variables(params), latents, tokens, level)
        return velocity.astype(jnp.float32)

    return Pipeline(
        tokenize=once_per_prompt(tokenize),
        encode_fn=encode_fn,
        decode_fn=make_video_decode_fn(vae, options.num_decoded_latents),
        guided_fn=functools.partial(with_guidance, denoise_fn),
        evaluations=lambda scale: 1 if scale == 1.0 else 2,
        grid_fn=make_flow_grid_fn(flow, 0),
        prediction_type="flow",
        network=parts.weights["transformer"],
        text_encoder=parts.weights[_ENCODER],
        decoder=decoder_of(parts.weights["vae"]),
        latent_shape=(*latent_sizes(parts), vae.latent_channels),
        write=functools.partial(write_wan_pipeline, parts),
        write_flax=None,
        network_name="transformer",
        num_steps=50,
        guidance_scale=5.0,
        negative_prompt=options.negative_prompt,
        decode_whole_fn=make_video_decode_fn(vae, 0),
        native_name=native_name,
        float32_weights=_FLOAT32,
    )


def latent_sizes(parts: Parts) -> tuple[int, int, int]:
    """Give frames, height and width of the latents of a clip.

    Raises:
        ConfigError: a clip that latents or tokens do not cover, more tokens along an axis than the
            transformer has positions for, or more latents to decode than it has.
    """
    transformer, vae, options = parts.networks["transformer"], parts.networks["vae"], parts.options
    patch, factor, count = transformer.patch_size, vae.frames_per_latent, options.num_frames or _FRAMES
    latents = 1 + (count - 1) // factor
    covered = (count - 1) % factor == 0 and latents % patch[0] == 0
    tokens = f" whose latents are a multiple of {patch[0]}" if patch[0] > 1 else ""
    expected = f"1 more than a multiple of {factor}{tokens}, or 0 for {_FRAMES}"
    expect(covered, "num_frames", count, expected)
    own = _HEIGHT // vae.downscale, _WIDTH // vae.downscale
    multiple = math.lcm(patch[1], patch[2]) * vae.downscale
    sizes = latents, *parts.latent_size(own, vae.downscale, multiple=multiple)
    pixels = count, sizes[1] * vae.downscale, sizes[2] * vae.downscale
    most = transformer.rope_max_seq_len
    for field, value, size, part in zip(("num_frames", "height", "width"), pixels, sizes, patch, strict=True):
        expected = f"at most rope_max_seq_len={most} tokens along it, {size // part} are needed"
        expect(size // part <= most, field, value, expected)
    decoded = options.num_decoded_latents
    expected = f"at most {latents}, the latents of {count} frames, or 0 for all"
    expect(decoded <= latents, "num_decoded_latents", decoded, expected)
    return sizes


def read_flow(parts: Parts) -> dict[str, Any]:
    """Give the flow that a clip is sampled along, whatever solver its scheduler is: T and its shift.

    The options' shift counts, else that of the scheduler's file: flow_shift of a solver, shift of a
    FlowMatchEulerDiscreteScheduler.

    Raises:
        WeightsError: the file is no scheduler of a flow, or has a shift that grows with the picture, which
            PyTorch's pipeline does not know.
    """
    settings = read_field(parts, SCHEDULER_FILE, read_scheduler_config, parts.scheduler_config)
    if settings.prediction_type != "flow":
        raise WeightsError(f"'{parts.source}/{SCHEDULER_FILE}': expected the scheduler of a flow")
    if settings.dynamic_shift is not None:
        raise WeightsError(
            f"'{parts.source}/{SCHEDULER_FILE}': use_dynamic_shifting=True: expected false in a WanPipeline"
        )
    return {
        "_class_name": FLOW_CLASS,
        "num_train_timesteps": settings.num_train_timesteps,
        "shift": parts.options.flow_shift or settings.shift,
    }


def write_wan_pipeline(
    parts: Parts, folder: Path, network: Params, *, timestep_spacing: str, dtype: Any
) -> None:
    """Write the pipeline with another transformer and the scheduler of its flow; all else is the source's.

    PyTorch's pipeline takes the student's steps where that scheduler is told their levels before the shift:
    `scheduler.set_timesteps(sigmas=[1, ..., 1 / K])`. A solver of higher order, as the source may have, would
    not take them.

    Args: as of `write_flow_pipeline`.
    """
    options: dict[str, Any] = {"timestep_spacing": timestep_spacing, "dtype": dtype}
    write_flow_pipeline(parts, "transformer", folder, network, **options)
    index = read_json(folder / "model_index.json") | {"scheduler": ["diffusers", FLOW_CLASS]}
    write_json(folder / "model_index.json", index)
    write_json(folder / SCHEDULER_FILE, read_flow(parts))


def native_name(layer: str) -> str:
    """Give the name of a layer in the files of Wan's makers: 'blocks.0.attn1.to_q' -> 'blocks.0.self_attn.q'.

    Source: convert_wan_to_diffusers.py of diffusers, the other way round.
    """
    for ours, theirs in _NATIVE:
        layer = re.sub(ours, theirs, layer)
    return layer


def clean(prompt: str) -> str:
    """Mend a prompt as PyTorch's pipeline does where ftfy is installed.

    Letters that were decoded wrongly are mended, HTML is read, twice, and blanks become one.
    """
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


def is_prompt(ids: Array, filling: Any) -> Array:
    """Tell the tokens of prompts, which end with one that is not `filling`, from those that fill them up.

    Args:
        ids: [B, L] int32.
        filling: the id that fills prompts up.

    Returns:
        [B, L] bool. Where filling stands inside a prompt, it is a token like others.
    """
    behind = jnp.argmax(ids[:, ::-1] != filling, axis=1)
    return jnp.arange(ids.shape[1])[None, :] < ids.shape[1] - behind[:, None]


def make_video_decode_fn(vae: AutoencoderKLWan, num_latents: int) -> DecodeFn:
    """Wrap a decoder as a DecodeFn of scaled latents, the first `num_latents` of a clip or, if 0, all."""
    mean, std = (np.asarray(vae.config[name], np.float32) for name in ("latents_mean", "latents_std"))

    def decode_fn(params: Params, latents: Array) -> Array:
        kept = latents[:, : num_latents or latents.shape[1]]
        videos = decode_clip(vae, params, kept * std + mean)
        return (videos.astype(jnp.float32) + 1.0) / 2.0

    return decode_fn


FAMILY = Family(
    networks={
        "transformer": WanTransformer3DModel,
        "vae": AutoencoderKLWan,
        _ENCODER: UMT5EncoderModel,
    },
    compose=compose,
    options=VIDEO_OPTIONS,
    max_sequence_length=lambda networks: _TOKENS,
)
