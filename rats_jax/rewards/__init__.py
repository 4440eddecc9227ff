"""Reward models: one file each, one line each in REWARDS, all with one signature, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from rats_jax.rewards.clip import load_clip_reward
from rats_jax.types import Array, Params, PromptInputs, RewardFn, RewardModel, TotalRewardFn

REWARDS: Mapping[str, Callable[..., RewardModel]] = {
    "clip": load_clip_reward,
}
"""By the `kind` of a config: (folder, *, dtype) -> RewardModel."""


def make_total_reward_fn(reward_fns: Mapping[str, RewardFn], weights: Mapping[str, float]) -> TotalRewardFn:
    """Combine rewards into the one that is trained.

    R[b] = sum_i weight_i * R_i[b].

    Args:
        reward_fns: by name.
        weights: by the same names.

    Returns:
        (params by name, images [B, H, W, 3] in [0, 1], prompt inputs by name) -> (R [B] float32,
        {name: R_i [B]}), differentiable in images.
    """

    def total_reward_fn(
        params: dict[str, Params], images: Array, prompt: dict[str, PromptInputs]
    ) -> tuple[Array, dict[str, Array]]:
        by_name = {name: fn(params[name], images, prompt[name]) for name, fn in reward_fns.items()}
        total = sum((weights[name] * reward for name, reward in by_name.items()), start=jnp.float32(0.0))
        return total, by_name

    return total_reward_fn
