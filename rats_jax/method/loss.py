"""The loss of one update: the reward leads, the gate decides how much the teacher still shapes."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rats_jax.types import Array


def negative_reward(reward: Array) -> Array:
    """Turn a reward into a loss without a ceiling.

    loss[b] = -R[b].

    Args:
        reward: R, [B] float32, higher is better.

    Returns:
        [B] float32, differentiable in reward.

    Source: Clark et al., Directly Fine-Tuning Diffusion Models on Differentiable Rewards,
        arXiv 2309.17400 (DRaFT).
    """
    chex.assert_rank(reward, 1)
    chex.assert_type(reward, float)
    return -reward


def hinge_reward(reward: Array, *, margin: float) -> Array:
    """Turn a reward into a loss that stops pulling where the reward is high enough.

    loss[b] = max(margin - R[b], 0).

    Args:
        reward: R, [B] float32, higher is better.
        margin: the reward from which on the loss is 0, in units of reward.

    Returns:
        [B] float32, at least 0; the gradient is -1 below the margin and exactly 0 from it on.

    Source: Xu et al., ImageReward, arXiv 2304.05977 (ReFL, whose map from reward to
        loss is a ReLU).
    """
    chex.assert_rank(reward, 1)
    chex.assert_type(reward, float)
    return jax.nn.relu(margin - reward)


def rats_loss(
    reward_loss: Array,
    shaping_loss: Array,
    gate: Array,
    *,
    reward_weight: float,
    shaping_weight: float,
) -> Array:
    """Combine the reward and the gated shaping of every sample into the loss of the batch.

    L = mean_b(reward_weight * reward_loss[b] + shaping_weight * gate[b] * L_shape[b]); the paper's alpha is
    shaping_weight. A reward_weight of 0 with a gate of 1 is static distillation, a gate of 0 is reward-only.

    Args:
        reward_loss: [B] float32, of `negative_reward` or `hinge_reward`.
        shaping_loss: L_shape, [B] float32, at least 0.
        gate: [B] float32 in [0, 1], without gradient.
        reward_weight: not negative.
        shaping_weight: alpha, not negative.

    Returns:
        float32 scalar, differentiable in reward_loss and shaping_loss.

    Raises:
        ValueError: a negative weight.

    Source: Li et al., Reward-Aware Trajectory Shaping, arXiv 2604.14910, section 3.
    """
    chex.assert_rank([reward_loss, shaping_loss, gate], 1)
    chex.assert_equal_shape([reward_loss, shaping_loss, gate])
    chex.assert_type([reward_loss, shaping_loss, gate], float)
    if reward_weight < 0.0 or shaping_weight < 0.0:
        raise ValueError(f"loss weights are {reward_weight} and {shaping_weight}, expected none negative")
    return jnp.mean(reward_weight * reward_loss + shaping_weight * gate * shaping_loss)
