"""Normalisation of groups of channels, in forms that vectorise."""

from __future__ import annotations

from typing import Any, Protocol

import jax.numpy as jnp
from jax import lax

from rats_jax.types import Array


class GroupNormFn(Protocol):
    """(inputs [B, ..., C], scale [C], bias [C]) -> [B, ..., C] of a dtype; see `group_norm`."""

    def __call__(
        self, inputs: Array, scale: Array, bias: Array, *, num_groups: int, epsilon: float, dtype: Any
    ) -> Array: ...


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

    of_groups = scale.reshape(per_group[1:]), bias.reshape(per_group[1:])
    factor, offset = _factor_and_offset(average(x), average(x * x), *of_groups, epsilon)
    factor, offset = factor.reshape(batch, 1, channels), offset.reshape(batch, 1, channels)
    return (x * factor + offset).reshape(inputs.shape).astype(dtype)


def group_norm_by_products(
    inputs: Array, scale: Array, bias: Array, *, num_groups: int, epsilon: float, dtype: Any
) -> Array:
    """Normalise as `group_norm`, with sums over a group as a matrix product, for CPUs.

    Each channel has the average of its group after the product. Else the loop of XLA's CPU backend that
    scales the elements finds the group of each once more, by a division.

    Args, Returns: as of `group_norm`.
    """
    batch, *_, channels = inputs.shape
    x = inputs.astype(jnp.float32).reshape(batch, -1, channels)
    group = jnp.arange(channels) // (channels // num_groups)
    share = (group[:, None] == group) / jnp.float32(x.shape[1] * (channels // num_groups))
    # Side by side in each sample: a batch that is sharded over devices stays where it is.
    sums = jnp.stack([jnp.sum(x, axis=1), jnp.sum(x * x, axis=1)], axis=1)
    averages = jnp.matmul(sums, share, precision=lax.Precision.HIGHEST)
    factor, offset = _factor_and_offset(averages[:, 0], averages[:, 1], scale, bias, epsilon)
    return (x * factor[:, None] + offset[:, None]).reshape(inputs.shape).astype(dtype)


def _factor_and_offset(
    mean: Array, mean_square: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array]:
    """Turn the averages of groups into what multiplies a channel and what is added to it."""
    # Rounding may bring this below zero where there is no contrast.
    variance = jnp.maximum(mean_square - mean * mean, 0.0)
    factor = lax.rsqrt(variance + epsilon) * scale
    return factor, bias - mean * factor
