"""A colour per prompt: a reward without weights, to test training with."""

from __future__ import annotations

import hashlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from rats_jax.rewards.no_weights import expect_no_path
from rats_jax.types import Array, Params, RewardModel


def load_colour_target(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Reward pictures whose mean colour is that of their prompt.

    R = -|mean colour - target|^2, at most 0; the target is drawn from the prompt's SHA-256, 0.1 to 0.9.

    Args:
        path: empty: there are no weights.
        dtype: not used, all is float32.

    Returns:
        The reward; its prompt inputs are the targets [B, 3] float32.

    Raises:
        WeightsError: a path.
    """
    del dtype
    expect_no_path("colour_target", path)

    def reward_fn(params: Params, images: Array, prompt: Array) -> Array:
        del params
        return -jnp.sum(jnp.square(jnp.mean(images, axis=(1, 2)) - prompt), axis=-1)

    return RewardModel(reward_fn, {}, lambda prompts: np.stack([_target(prompt) for prompt in prompts]))


def _target(prompt: str) -> np.ndarray:
    return np.float32(0.1) + np.float32(0.8 / 255) * np.frombuffer(
        hashlib.sha256(prompt.encode()).digest()[:3], np.uint8
    ).astype(np.float32)
