"""Reward record: how one kind of reward is loaded and described; several rewards scored at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp

from rats_jax.errors import WeightsError
from rats_jax.types import Array, Params, PromptInputs, RewardFn, RewardModel, ScoreFn


class LoadFn(Protocol):
    """(path: folder, file or hub id, empty for the published weights; *, dtype of the towers) -> reward."""

    def __call__(self, path: str, *, dtype: Any = jnp.float32) -> RewardModel: ...


class DescribeFn(Protocol):
    """(*, dtype of the towers) -> published architecture with jax.ShapeDtypeStruct for all numbers."""

    def __call__(self, *, dtype: Any) -> RewardModel: ...


@dataclass(frozen=True)
class Reward:
    """One kind of reward.

    Attributes:
        load: finds the weights, checks them, and reads few of them; WeightsError where they do not fit.
        describe: gives the reward of the published weights by their shapes alone, without a file or a
            network: leaves of the weights and of what `prepare` gives are jax.ShapeDtypeStruct. None where
            nothing is published.
        differentiable: whether its slope tells how to raise it; what has none is monitored, not trained on.
        of_videos: whether it judges whole videos [B, T, H, W, 3]; what judges pictures [B, H, W, 3] judges
            frames of them, see `frames.py`.
    """

    load: LoadFn
    describe: DescribeFn | None
    differentiable: bool = True
    of_videos: bool = False


def without_weights(kind: str, reward_fn: RewardFn, prepare: Callable[[list[str]], PromptInputs]) -> Reward:
    """Make a reward of a pure function.

    Args:
        kind: its name in REWARDS, for messages.
        reward_fn: (weights, which are {}, images [B, H, W, 3] in [0, 1], prompt inputs) -> [B] float32.
        prepare: B prompts -> prompt inputs, pytree of NumPy arrays [B, ...].

    Returns:
        The reward; loading it with a path raises WeightsError.
    """

    def load(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
        del dtype  # there are no towers
        if path:
            raise WeightsError(f"path={path!r}: expected '', the reward {kind!r} has no weights")
        return RewardModel(reward_fn, {}, prepare)

    return Reward(load, describe=None)


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
