"""Group normalisation in a form that vectorises."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from rats_jax.types import Array


def group_norm(
    inputs: Array, scale: Array, bias: Array, *, num_groups: int, epsilon: float, dtype: Any
) -> Array:
    """Normalise groups of channels, as `nn.GroupNorm` does.

    Sums run over the positions first, channel by channel, and then over the few channels of a group; the rest
    is one multiplication and one addition per element. `nn.GroupNorm` cuts the channels into groups first:
    what is summed then lies in runs of two or four numbers, which no vector unit likes.

    Args:
        inputs: [B, ..., C].
        scale, bias: [C].
        num_groups: divides C.
        epsilon: added to the variance.
        dtype: of the result; sums are float32.

    Returns:
        [B, ..., C].
    """
    batch, *positions, channels = inputs.shape
    x = inputs.astype(jnp.float32).reshape(batch, -1, channels)
    per_group = batch, num_groups, channels // num_groups
    count = x.shape[1] * per_group[-1]

    def average(values: Array) -> Array:
        return jnp.sum(jnp.sum(values, 1).reshape(per_group), -1, keepdims=True) / count

    mean = average(x)
    # Rounding may bring this below zero where there is no contrast.
    variance = jnp.maximum(average(x * x) - mean * mean, 0.0)
    factor = lax.rsqrt(variance + epsilon) * scale.reshape(per_group[1:])
    offset = bias.reshape(per_group[1:]) - mean * factor
    factor, offset = factor.reshape(batch, 1, channels), offset.reshape(batch, 1, channels)
    return (x * factor + offset).reshape(inputs.shape).astype(dtype)


def replace_group_norm(module: nn.GroupNorm, inputs: Array, *, epsilon: float | None = None) -> Array:
    """Apply a bound `nn.GroupNorm`, with its own epsilon or another one, as `group_norm`."""
    assert module.num_groups is not None  # the other way to say it, group_size, is nowhere in these networks
    params = module.variables["params"]
    return group_norm(
        inputs,
        params["scale"],
        params["bias"],
        num_groups=module.num_groups,
        epsilon=module.epsilon if epsilon is None else epsilon,
        dtype=module.dtype or jnp.result_type(inputs, params["scale"]),
    )
