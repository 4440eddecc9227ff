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


def make_draw_fn(encode_fn: EncodeFn, rollout_fn: RolloutFn, decode_fn: DecodeFn, *, name: str) -> DrawFn:
    """Compose what turns prompts and noise into pictures.

    Args:
        encode_fn: the text encoders.
        rollout_fn: all steps of a sampler.
        decode_fn: latents to images.
        name: of the rollout, in a profile.

    Returns:
        draw(params, text encoder's, decoder's, prompt inputs, noise [B, ...]) -> (trajectory, images
        [B, H, W, 3] float32 in [0, 1]). Images are clipped: what lies outside of them has no gradient.
    """

    def draw(
        params: Params, text_encoder: Params, decoder: Params, prompt: PromptInputs, noise: Array
    ) -> tuple[Trajectory, Array]:
        embeds = encode_fn(text_encoder, prompt)
        with jax.named_scope(name):
            trajectory = rollout_fn(params, noise, embeds)
        with jax.named_scope("decode"):
            return trajectory, jnp.clip(decode_fn(decoder, trajectory.latents), 0.0, 1.0)

    return draw
