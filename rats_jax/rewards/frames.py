"""Rewards of pictures on the frames of a video."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rats_jax.data.frames import choose_frames
from rats_jax.types import Array, Params, PromptInputs, RewardFn


def on_frames(reward_fn: RewardFn, count: int) -> RewardFn:
    """Let a reward of pictures judge videos: R = mean_j R(frame_j) over chosen frames.

    Args:
        reward_fn: of pictures.
        count: of the frames that are judged, see `choose_frames`; 0 is all.

    Returns:
        (params, videos [B, T, H, W, 3] in [0, 1], prompt inputs) -> [B] float32; the gradient reaches the
        chosen frames alone.
    """

    def video_reward_fn(params: Params, videos: Array, prompt: PromptInputs) -> Array:
        chex.assert_rank(videos, 5)
        chosen = choose_frames(videos.shape[1], count)
        frames = videos[:, chosen].reshape(-1, *videos.shape[2:])
        prompts = jax.tree.map(lambda x: jnp.repeat(x, len(chosen), axis=0), prompt)
        return jnp.mean(reward_fn(params, frames, prompts).reshape(-1, len(chosen)), axis=1)

    return video_reward_fn
