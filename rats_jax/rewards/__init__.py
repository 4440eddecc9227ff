"""Reward models: one file each, one line each in REWARDS, all with one signature, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rats_jax.rewards.clip import load_clip_reward
from rats_jax.types import Array, Params, PromptInputs, RewardFn, RewardModel, ScoreFn

REWARDS: Mapping[str, Callable[..., RewardModel]] = {
    "clip": load_clip_reward,
}
"""By the `kind` of a config: (folder, *, dtype) -> RewardModel."""


def make_score_fn(reward_fns: Mapping[str, RewardFn]) -> ScoreFn:
    """Score pictures with several rewards at once.

    Args:
        reward_fns: by name.

    Returns:
        (params by name, images [B, H, W, 3] in [0, 1], prompt inputs by name) -> {name: R_i [B] float32},
        differentiable in images.
    """

    def score_fn(
        params: Mapping[str, Params], images: Array, prompt: Mapping[str, PromptInputs]
    ) -> dict[str, Array]:
        return {name: fn(params[name], images, prompt[name]) for name, fn in reward_fns.items()}

    return score_fn
