"""Sum of several rewards: the one reward that is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from rats_jax.method.moments import std
from rats_jax.types import Array, Moments

CombineFn = Callable[[Mapping[str, Array], Mapping[str, Moments]], Array]
"""(each reward [B] by name, their running moments by name) -> R [B] float32."""

# A reward that hardly varies must not be blown up until its rounding errors lead.
_MIN_STD = 1e-4


def weighted_sum(
    rewards: Mapping[str, Array], moments: Mapping[str, Moments], *, weights: Mapping[str, float]
) -> Array:
    """Add rewards on their own scales.

    R[b] = sum_i weight_i * R_i[b].

    Args:
        rewards: R_i, [B] float32 by name; others than those that have a weight are left out.
        moments: not read.
        weights: by name.

    Returns:
        R, [B] float32, differentiable in the rewards.
    """
    del moments
    return sum((weight * rewards[name] for name, weight in weights.items()), start=jnp.float32(0.0))


def normalised_sum(
    rewards: Mapping[str, Array], moments: Mapping[str, Moments], *, weights: Mapping[str, float]
) -> Array:
    """Add rewards in units of their running standard deviations, so that weights compare like with like.

    R[b] = sum_i weight_i * R_i[b] / std_i; no mean is subtracted, since it would cancel in every gap.

    Args:
        rewards: R_i, [B] float32 by name; others than those that have a weight are left out.
        moments: of each weighted reward, by name.
        weights: by name.

    Returns:
        R, [B] float32, differentiable in the rewards and not in the deviations.

    Source: this project's choice; rewards differ by orders of magnitude (HPS 0.01-0.05, PickScore 0.1-2).
    """
    scaled = {name: weight / std(moments[name], eps=_MIN_STD) for name, weight in weights.items()}
    return sum((scale * rewards[name] for name, scale in scaled.items()), start=jnp.float32(0.0))
