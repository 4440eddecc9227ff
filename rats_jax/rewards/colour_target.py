"""A colour per prompt: a reward without weights, to test training with."""

from __future__ import annotations

import hashlib

import chex
import jax.numpy as jnp
import numpy as np

from rats_jax.rewards.base import without_weights
from rats_jax.types import Array, Params


def score_colour(params: Params, images: Array, prompt: Array) -> Array:
    """Compare the mean colour of pictures with a target.

    R = -|mean colour - target|^2

    Args:
        params: not used.
        images: [B, H, W, 3] float32 in [0, 1].
        prompt: targets [B, 3] float32.

    Returns:
        [B] float32, at most 0; differentiable in images.
    """
    del params
    chex.assert_rank([images, prompt], [4, 2])
    return -jnp.sum(jnp.square(jnp.mean(images, axis=(1, 2)) - prompt), axis=-1)


def draw_targets(prompts: list[str]) -> np.ndarray:
    """Draw the targets of B prompts from their SHA-256: [B, 3] float32, 0.1 to 0.9."""
    digests = [hashlib.sha256(prompt.encode()).digest()[:3] for prompt in prompts]
    levels = np.array([np.frombuffer(digest, np.uint8) for digest in digests], np.float32)
    return np.float32(0.1) + np.float32(0.8 / 255) * levels


COLOUR_TARGET = without_weights("colour_target", score_colour, draw_targets)
