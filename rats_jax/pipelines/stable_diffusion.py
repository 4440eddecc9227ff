"""Stable Diffusion 1.x and 2.x: a UNet conditioned on the tokens of one text encoder."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from rats_jax.diffusion.guidance import with_guidance
from rats_jax.diffusion.schedule import get_prediction_type
from rats_jax.diffusion.scheduler_config import (
    ddim_shares_timesteps,
    has_steps_offset,
    read_scheduler_config,
)
from rats_jax.errors import WeightsError
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.clip_text import CLIPTextModel
from rats_jax.networks.lora import variables
from rats_jax.networks.unet_2d import UNet2DConditionModel
from rats_jax.pipelines.base import (
    OWN,
    SCHEDULER_FILE,
    Family,
    Parts,
    Pipeline,
    TokenizeFn,
    check_fit,
    decoder_of,
    make_decode_fn,
    make_diffusion_grid_fn,
    read_field,
)
from rats_jax.pipelines.write import write_ddim, write_pipeline
from rats_jax.pipelines.write_flax import write_flax_pipeline
from rats_jax.types import Array, DenoiseFn, EncodeFn, Params, PromptEmbeds, PromptInputs
from rats_jax.weights.tokenizers import once_per_prompt


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
        return unet.apply(variables(params), latents, timestep, tokens).astype(jnp.float32)

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
    expected = {
        "in_channels": (vae.latent_channels, "the autoencoder"),
        "out_channels": (vae.latent_channels, "the autoencoder"),
        "cross_attention_dim": (token_features, "the text encoder"),
    }
    check_fit(parts, "unet", expected)
    if vae.shift_factor:
        check_fit(parts, "vae", {"shift_factor": (None, "the pipeline, which adds none")})
    prediction_type = read_field(parts, SCHEDULER_FILE, get_prediction_type, parts.scheduler_config)
    shared = ddim_shares_timesteps(read_scheduler_config(parts.scheduler_config))
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
        decoder=decoder_of(weights["vae"]),
        latent_shape=(*latent_size(parts), unet.in_channels),
        write=functools.partial(write_pipeline, parts, "unet"),
        write_flax=functools.partial(write_flax_pipeline, parts, "unet"),
        write_scheduler=None if prediction_type == "flow" else functools.partial(write_ddim, parts),
        network_name="unet",
        exports_own_spacing=shared or prediction_type == "flow",  # which has no other spacing to choose
    )


def latent_size(parts: Parts) -> tuple[int, int]:
    """Give height and width of the latents of a UNet.

    Raises:
        WeightsError: its config names none.
        ConfigError: a picture that the levels of the UNet cannot halve.
    """
    unet, downscale = parts.networks["unet"], parts.networks["vae"].downscale
    size = unet.sample_size
    if size is None:
        raise WeightsError(f"'{parts.source}/unet/config.json': sample_size=None: expected an integer >= 1")
    own = size if isinstance(size, tuple) else (size, size)
    # Its own size may be odd at a level, as the UNet then pads; a chosen one is for the user to round.
    halvings = 2 ** (len(unet.config["block_out_channels"]) - 1) if parts.options != OWN else 1
    return parts.latent_size(own, downscale, multiple=downscale * halvings)


def repair(file: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Mend what converters of old wrote wrongly.

    Source: StableDiffusionPipeline.__init__ of diffusers, which does so with a warning.
    """
    config = dict(config)
    if file == "unet/config.json":
        size, written_by = config.get("sample_size"), str(config.get("_diffusers_version"))
        if isinstance(size, int) and size < 64 and re.match(r"0\.[0-8](\.|$)", written_by):
            config["sample_size"] = 64
    if file == SCHEDULER_FILE and has_steps_offset(config):
        config["steps_offset"] = 1
        if config.get("clip_sample") is True:
            config["clip_sample"] = False
    return config


FAMILY = Family(
    networks={"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel},
    compose=compose,
    repair=repair,
)
