"""PyTorch's pipelines: how each family's original encodes, evaluates its network, decodes and samples.

A pipeline here is diffusers' own object, with the parts that are not needed left out, and its tensors are
[B, C, h, w], of videos [B, C, t, h, w]. torch is imported by no line of this file: what is given has its
methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rats_jax.pipelines.flux import FluxEmbeds
from rats_jax.pipelines.stable_diffusion_3 import SD3Embeds
from rats_jax.pipelines.stable_diffusion_xl import XLEmbeds
from rats_jax.types import PromptEmbeds
from rats_jax.verification.inputs import Inputs


class Section(NamedTuple):
    """A part of what the text encoders give.

    Attributes:
        part: the encoder, and what of it.
        take: finds it in the embeddings of either side.
    """

    part: str
    take: Callable[[PromptEmbeds], Any]


Conditions = Any
"""Embeddings of one prompt in our layout, with tensors for leaves."""


@dataclass(frozen=True)
class Original:
    """What PyTorch's pipeline of a family is called with.

    Attributes:
        encode: (pipeline of text encoders, prompts, inputs) -> the embeddings in our layout, tensors.
        sections: pipeline of text encoders -> what of those is compared.
        evaluate: (pipeline of network and autoencoder, latents, timestep [1], embeddings with the prompt,
            guidance scale) -> the network's output like the latents.
        decode: (pipeline of network and autoencoder, latents) -> pictures about [-1, 1], [B, 3, H, W] or
            [B, 3, T, H, W].
        arguments: (pipeline, latents, embeddings, inputs) -> those of its call that are the family's own.
        prompt_length: what our tokenizers give for a prompt -> tokens that a T5 encoder reads, 0 without one.
        clips: whether the decoder clips its pictures.
    """

    encode: Callable[[Any, list[str], Inputs], PromptEmbeds]
    sections: Callable[[Any], list[Section]]
    evaluate: Callable[[Any, Any, Any, Conditions, float], Any]
    decode: Callable[[Any, Any], Any]
    arguments: Callable[[Any, Any, PromptEmbeds, Inputs], dict[str, Any]]
    prompt_length: Callable[[Any], int] = lambda tokens: 0
    clips: bool = False


def _decode_picture(pipeline: Any, latents: Any) -> Any:
    config = pipeline.vae.config
    return pipeline.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0.0)).sample


def _size(inputs: Inputs) -> dict[str, int]:
    return dict(zip(("height", "width"), inputs.size, strict=True))


# Stable Diffusion 1.x and 2.x.


def _encode_sd(pipeline: Any, prompts: list[str], inputs: Inputs) -> PromptEmbeds:
    return PromptEmbeds(*pipeline.encode_prompt(prompts, pipeline.device, 1, True))


def _sections_sd(pipeline: Any) -> list[Section]:
    return [
        Section("text_encoder", lambda embeds: embeds.cond),
        Section("text_encoder, no prompt", lambda embeds: embeds.uncond),
    ]


def _evaluate_sd(pipeline: Any, latents: Any, timestep: Any, cond: Any, scale: float) -> Any:
    return pipeline.unet(latents, timestep, cond).sample


def _arguments_sd(pipeline: Any, latents: Any, embeds: PromptEmbeds, inputs: Inputs) -> dict[str, Any]:
    given = {"prompt_embeds": embeds.cond, "negative_prompt_embeds": embeds.uncond, "latents": latents}
    return given | _size(inputs)


# Stable Diffusion XL.


def _encode_xl(pipeline: Any, prompts: list[str], inputs: Inputs) -> PromptEmbeds:
    cond, uncond, pooled, uncond_pooled = pipeline.encode_prompt(prompts, device=pipeline.device)
    return PromptEmbeds(XLEmbeds(cond, pooled), XLEmbeds(uncond, uncond_pooled))


def _sections_xl(pipeline: Any) -> list[Section]:
    width = pipeline.text_encoder.config.hidden_size
    return [
        Section("text_encoder", lambda embeds: embeds.cond.tokens[..., :width]),
        Section("text_encoder_2", lambda embeds: embeds.cond.tokens[..., width:]),
        Section("text_encoder_2, pooled", lambda embeds: embeds.cond.pooled),
        Section("text encoders, no prompt", lambda embeds: embeds.uncond.tokens),
        Section("text_encoder_2, pooled, no prompt", lambda embeds: embeds.uncond.pooled),
    ]


def _evaluate_xl(pipeline: Any, latents: Any, timestep: Any, cond: Any, scale: float) -> Any:
    height, width = (pipeline.vae_scale_factor * length for length in latents.shape[-2:])
    time_ids = cond.pooled.new_tensor([[height, width, 0, 0, height, width]]).repeat(len(cond.pooled), 1)
    added = {"text_embeds": cond.pooled, "time_ids": time_ids}
    return pipeline.unet(latents, timestep, cond.tokens, added_cond_kwargs=added).sample


def _arguments_pooled(pipeline: Any, latents: Any, embeds: PromptEmbeds, inputs: Inputs) -> dict[str, Any]:
    given = {
        "prompt_embeds": embeds.cond.tokens,
        "negative_prompt_embeds": embeds.uncond.tokens,
        "pooled_prompt_embeds": embeds.cond.pooled,
        "negative_pooled_prompt_embeds": embeds.uncond.pooled,
        "latents": latents,
    }
    return given | _size(inputs)


# Stable Diffusion 3 and 3.5.


def _encode_sd3(pipeline: Any, prompts: list[str], inputs: Inputs) -> PromptEmbeds:
    options = {"max_sequence_length": inputs.prompt_length} if inputs.prompt_length else {}
    cond, uncond, pooled, uncond_pooled = pipeline.encode_prompt(
        prompts, None, None, device=pipeline.device, **options
    )
    return PromptEmbeds(SD3Embeds(cond, pooled), SD3Embeds(uncond, uncond_pooled))


def _sections_sd3(pipeline: Any) -> list[Section]:
    first = pipeline.text_encoder.config.hidden_size
    both, length = first + pipeline.text_encoder_2.config.hidden_size, pipeline.tokenizer_max_length
    third = "text_encoder_3" if pipeline.text_encoder_3 is not None else "no text_encoder_3"
    return [
        Section("text_encoder", lambda embeds: embeds.cond.tokens[:, :length, :first]),
        Section("text_encoder_2", lambda embeds: embeds.cond.tokens[:, :length, first:both]),
        Section(third, lambda embeds: embeds.cond.tokens[:, length:]),
        Section("text encoders, pooled", lambda embeds: embeds.cond.pooled),
        Section("text encoders, no prompt", lambda embeds: embeds.uncond.tokens),
        Section("text encoders, pooled, no prompt", lambda embeds: embeds.uncond.pooled),
    ]


def _evaluate_sd3(pipeline: Any, latents: Any, timestep: Any, cond: Any, scale: float) -> Any:
    return pipeline.transformer(
        latents, encoder_hidden_states=cond.tokens, pooled_projections=cond.pooled, timestep=timestep
    ).sample


# FLUX.1.


def _encode_flux(pipeline: Any, prompts: list[str], inputs: Inputs) -> PromptEmbeds:
    tokens, pooled, _ = pipeline.encode_prompt(
        prompts, None, device=pipeline.device, max_sequence_length=inputs.prompt_length
    )
    return PromptEmbeds(FluxEmbeds(tokens, pooled), None)


def _sections_flux(pipeline: Any) -> list[Section]:
    return [
        Section("text_encoder, pooled", lambda embeds: embeds.cond.pooled),
        Section("text_encoder_2", lambda embeds: embeds.cond.tokens),
    ]


def _evaluate_flux(pipeline: Any, latents: Any, timestep: Any, cond: Any, scale: float) -> Any:
    height, width = latents.shape[-2:]
    image_ids = pipeline._prepare_latent_image_ids(
        len(latents), height // 2, width // 2, latents.device, latents.dtype
    )
    told = pipeline.transformer.config.guidance_embeds
    velocity = pipeline.transformer(
        pipeline._pack_latents(latents, *latents.shape),
        cond.tokens,
        cond.pooled,
        timestep / 1000,
        image_ids,
        latents.new_zeros(cond.tokens.shape[1], 3),
        timestep.new_full((len(latents),), scale) if told else None,
    ).sample
    factor = pipeline.vae_scale_factor
    return pipeline._unpack_latents(velocity, height * factor, width * factor, factor)


def _arguments_flux(pipeline: Any, latents: Any, embeds: PromptEmbeds, inputs: Inputs) -> dict[str, Any]:
    given = {"prompt_embeds": embeds.cond.tokens, "pooled_prompt_embeds": embeds.cond.pooled}
    return given | {"latents": pipeline._pack_latents(latents, *latents.shape)} | _size(inputs)


# Wan2.1.


def _encode_wan(pipeline: Any, prompts: list[str], inputs: Inputs) -> PromptEmbeds:
    length = inputs.prompt_length
    return PromptEmbeds(*pipeline.encode_prompt(prompts, device=pipeline.device, max_sequence_length=length))


def _evaluate_wan(pipeline: Any, latents: Any, timestep: Any, cond: Any, scale: float) -> Any:
    return pipeline.transformer(latents, timestep, cond).sample


def _decode_clip(pipeline: Any, latents: Any) -> Any:
    mean, std = (
        latents.new_tensor(pipeline.vae.config[name]).reshape(-1, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    return pipeline.vae.decode(latents * std + mean).sample


def _arguments_wan(pipeline: Any, latents: Any, embeds: PromptEmbeds, inputs: Inputs) -> dict[str, Any]:
    return _arguments_sd(pipeline, latents, embeds, inputs) | {"num_frames": inputs.num_frames}


def _length(tokens: Any) -> int:
    return int(np.shape(tokens)[1])


ORIGINALS: Mapping[str, Original] = {
    "StableDiffusionPipeline": Original(
        _encode_sd, _sections_sd, _evaluate_sd, _decode_picture, _arguments_sd
    ),
    "StableDiffusionXLPipeline": Original(
        _encode_xl, _sections_xl, _evaluate_xl, _decode_picture, _arguments_pooled
    ),
    "StableDiffusion3Pipeline": Original(
        _encode_sd3,
        _sections_sd3,
        _evaluate_sd3,
        _decode_picture,
        _arguments_pooled,
        prompt_length=lambda tokens: _length(tokens["text_encoder_3"]) if "text_encoder_3" in tokens else 0,
    ),
    "FluxPipeline": Original(
        _encode_flux,
        _sections_flux,
        _evaluate_flux,
        _decode_picture,
        _arguments_flux,
        prompt_length=lambda tokens: _length(tokens["text_encoder_2"]),
    ),
    "WanPipeline": Original(
        _encode_wan,
        _sections_sd,
        _evaluate_wan,
        _decode_clip,
        _arguments_wan,
        prompt_length=_length,
        clips=True,
    ),
}
"""By the class that model_index.json names, as PIPELINES."""
