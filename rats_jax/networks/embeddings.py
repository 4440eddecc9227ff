"""Embeddings of timesteps and of other numbers that a diffusion model is told."""

from __future__ import annotations

import math
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from rats_jax.networks.layers import ACTIVATIONS
from rats_jax.types import Array

_LONGEST_PERIOD = 10_000.0


def timestep_embedding(numbers: Array, dim: int, *, flip_sin_to_cos: bool, freq_shift: float) -> Array:
    """Embed numbers as sines and cosines of several frequencies.

    sin(t w_i) and cos(t w_i), w_i = 10000 ** (-i / (dim // 2 - freq_shift)), i = 0 .. dim // 2 - 1.

    Args:
        numbers: [B], timesteps or pixels.
        dim: D; an odd one ends in a zero.
        flip_sin_to_cos: cosines come first.
        freq_shift: less than dim // 2.

    Returns:
        [B, D] float32.

    Source: get_timestep_embedding in diffusers/models/embeddings.py.
    """
    chex.assert_rank(numbers, 1)
    step = math.log(_LONGEST_PERIOD) / (dim // 2 - freq_shift)
    frequencies = jnp.exp(jnp.arange(dim // 2, dtype=jnp.float32) * -step)
    phases = numbers.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = [jnp.cos(phases), jnp.sin(phases)] if flip_sin_to_cos else [jnp.sin(phases), jnp.cos(phases)]
    return jnp.pad(jnp.concatenate(waves, axis=-1), ((0, 0), (0, dim % 2)))


class TimestepEmbedding(nn.Module):
    """Two linear layers that turn sinusoids into an embedding.

    Attributes:
        features: D.
        act_fn: between the two layers.
        post_act: after them, or None.
        dtype: of the computation and the result.

    Source: TimestepEmbedding in diffusers/models/embeddings.py.
    """

    features: int
    act_fn: str = "silu"
    post_act: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, sinusoids: Array) -> Array:
        """Embed: [B, D'] -> [B, D]."""
        chex.assert_rank(sinusoids, 2)
        hidden = nn.Dense(self.features, dtype=self.dtype, name="linear_1")(sinusoids)
        hidden = ACTIVATIONS[self.act_fn](hidden)
        hidden = nn.Dense(self.features, dtype=self.dtype, name="linear_2")(hidden)
        return hidden if self.post_act is None else ACTIVATIONS[self.post_act](hidden)
