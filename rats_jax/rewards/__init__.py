"""Reward models: one file each, one line each in REWARDS, all with one signature, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rats_jax.rewards.aesthetic import load_aesthetic
from rats_jax.rewards.clipscore import load_clipscore
from rats_jax.rewards.colour_target import load_colour_target
from rats_jax.rewards.compressibility import load_compressibility_proxy
from rats_jax.rewards.hpsv2 import load_hpsv2_0, load_hpsv2_1
from rats_jax.rewards.imagereward import load_imagereward
from rats_jax.rewards.pickscore import load_pickscore
from rats_jax.types import Array, Params, PromptInputs, RewardFn, RewardModel, ScoreFn

REWARDS: Mapping[str, Callable[..., RewardModel]] = {
    "aesthetic": load_aesthetic,
    "clipscore": load_clipscore,
    "colour_target": load_colour_target,
    "compressibility_proxy": load_compressibility_proxy,
    "hpsv2.0": load_hpsv2_0,
    "hpsv2.1": load_hpsv2_1,
    "imagereward": load_imagereward,
    "pickscore": load_pickscore,
}
"""By the `kind` of a config: (path or hub id, empty for the published weights; *, dtype) -> RewardModel."""


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
