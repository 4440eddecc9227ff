"""Drawing: text encoder, rollout and decoder as one function."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rats_jax.types import Array, DecodeFn, EncodeFn, Params, PromptEmbeds, PromptInputs, Trajectory

RolloutFn = Callable[[Params, Array, PromptEmbeds], Trajectory]
"""(params, noise [B, ...], embeds) -> Trajectory."""
DrawFn = Callable[[Params, Params, Params, PromptInputs, Array], tuple[Trajectory, Array]]
"""(params, text encoder params, decoder params, prompt inputs, noise) -> (Trajectory, images in [0, 1])."""


def make_sample_fn(
    encode_fn: EncodeFn, rollout_fn: RolloutFn, *, name: str
) -> Callable[[Params, Params, PromptInputs, Array], Trajectory]:
    """Compose text encoder and rollout: prompts and noise to latents.

    Args:
        encode_fn: the text encoders.
        rollout_fn: all steps of a sampler.
        name: of the rollout, in a profile.

    Returns:
        sample(params, text encoder's, prompt inputs, noise [B, ...]) -> trajectory.
    """

    def sample(params: Params, text_encoder: Params, prompt: PromptInputs, noise: Array) -> Trajectory:
        embeds = encode_fn(text_encoder, prompt)
        with jax.named_scope(name):
            return rollout_fn(params, noise, embeds)

    return sample


def make_picture_fn(decode_fn: DecodeFn) -> DecodeFn:
    """Clip a decoder's output to pictures in [0, 1]; what lies outside has no gradient."""

    def picture(decoder: Params, latents: Array) -> Array:
        with jax.named_scope("decode"):
            return jnp.clip(decode_fn(decoder, latents), 0.0, 1.0)

    return picture


def make_draw_fn(encode_fn: EncodeFn, rollout_fn: RolloutFn, decode_fn: DecodeFn, *, name: str) -> DrawFn:
    """Compose what turns prompts and noise into pictures.

    Args:
        encode_fn, rollout_fn, name: as of `make_sample_fn`.
        decode_fn: latents to images.

    Returns:
        draw(params, text encoder's, decoder's, prompt inputs, noise [B, ...]) -> (trajectory, images as of
        `make_picture_fn`).
    """
    sample_fn = make_sample_fn(encode_fn, rollout_fn, name=name)
    picture_fn = make_picture_fn(decode_fn)

    def draw(
        params: Params, text_encoder: Params, decoder: Params, prompt: PromptInputs, noise: Array
    ) -> tuple[Trajectory, Array]:
        trajectory = sample_fn(params, text_encoder, prompt, noise)
        return trajectory, picture_fn(decoder, trajectory.latents)

    return draw
