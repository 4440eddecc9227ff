"""Transformer over the positions of a picture, which attend to each other and to a prompt."""

from __future__ import annotations

from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from rats_jax.networks.attention import join_heads, split_heads
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import Conv, GroupNorm, gelu, match_batch
from rats_jax.types import Array

# What the originals do not let a config choose.
_GROUP_NORM_EPSILON, _LAYER_NORM_EPSILON, _EXPANSION = 1e-6, 1e-5, 4
_ONE_BY_ONE = {"kernel_size": (1, 1), "padding": ((0, 0), (0, 0))}


class Attention(nn.Module):
    """Attention with its four projections.

    Attributes:
        num_heads: N.
        head_dim: features of a head.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: Attention in diffusers/models/attention_processor.py.
    """

    num_heads: int
    head_dim: int
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, inputs: Array, context: Array) -> Array:
        """Let the inputs read the context: [B, L, D], [B, M, D'] -> [B, L, D]."""
        chex.assert_rank([inputs, context], 3)
        width = self.num_heads * self.head_dim

        def project(x: Array, name: str) -> Array:
            x = nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(x)
            return split_heads(x, self.num_heads)

        query, key, value = project(inputs, "to_q"), project(context, "to_k"), project(context, "to_v")
        attended = join_heads(self.kernels.attend(query, key, value))
        return nn.Dense(inputs.shape[-1], dtype=self.dtype, name="to_out_0")(attended)


class GEGLU(nn.Module):
    """A linear layer, half of whose features gate the other half through a GELU.

    Attributes:
        features: of the result.
        dtype: of the computation and the result.

    Source: GEGLU in diffusers/models/activations.py; Shazeer, GLU Variants, arXiv 2002.05202.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Gate: [B, L, D] -> [B, L, features]."""
        hidden, gate = jnp.split(
            nn.Dense(2 * self.features, dtype=self.dtype, name="proj")(inputs), 2, axis=-1
        )
        return hidden * gelu(gate)


class FeedForward(nn.Module):
    """A gated layer of four times the features, and a linear layer back.

    Attributes:
        dtype: of the computation and the result.

    Source: FeedForward in diffusers/models/attention.py.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Compute each position by itself: [B, L, D] -> [B, L, D]."""
        features = inputs.shape[-1]
        hidden = GEGLU(_EXPANSION * features, dtype=self.dtype, name="net_0")(inputs)
        return nn.Dense(features, dtype=self.dtype, name="net_2")(hidden)


class BasicTransformerBlock(nn.Module):
    """Attention among positions, attention to a prompt, and a feed-forward layer, each added to its input.

    Attributes:
        num_heads: N.
        head_dim: features of a head.
        only_cross_attention: the first attention reads the prompt too.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: BasicTransformerBlock in diffusers/models/attention.py.
    """

    num_heads: int
    head_dim: int
    only_cross_attention: bool = False
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, hidden: Array, tokens: Array) -> Array:
        """Compute a block: [B, L, D], [R * B, M, D'] -> [R * B, L, D], R prompts of each sample in a row."""
        if self.only_cross_attention:
            hidden, tokens = match_batch(hidden, tokens)
        inputs = self._norm("norm1")(hidden)
        context = tokens if self.only_cross_attention else inputs
        hidden = self._attention("attn1")(inputs, context) + hidden
        hidden, tokens = match_batch(hidden, tokens)
        hidden = self._attention("attn2")(self._norm("norm2")(hidden), tokens) + hidden
        return FeedForward(dtype=self.dtype, name="ff")(self._norm("norm3")(hidden)) + hidden

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=_LAYER_NORM_EPSILON, dtype=self.dtype, name=name)

    def _attention(self, name: str) -> Attention:
        return Attention(self.num_heads, self.head_dim, dtype=self.dtype, kernels=self.kernels, name=name)


class Transformer2DModel(nn.Module):
    """Transformer blocks between two projections, added to the picture.

    Attributes:
        num_heads: N; where it does not divide the channels, the blocks have N * (C // N) of them.
        depth: number of blocks.
        num_groups: of the norm.
        use_linear_projection: projections are linear layers, else convolutions of 1 x 1.
        only_cross_attention: no position reads another.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: Transformer2DModel in diffusers/models/transformers/transformer_2d.py.
    """

    num_heads: int
    depth: int
    num_groups: int
    use_linear_projection: bool = False
    only_cross_attention: bool = False
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, inputs: Array, tokens: Array) -> Array:
        """Transform a picture: [B, H, W, C], [R * B, L, D] -> [R * B, H, W, C]."""
        chex.assert_rank([inputs, tokens], [4, 3])
        batch, height, width, channels = inputs.shape
        head_dim = channels // self.num_heads
        inner = self.num_heads * head_dim
        norm = GroupNorm(self.num_groups, _GROUP_NORM_EPSILON, self.dtype, self.kernels, name="norm")
        hidden = norm(inputs)
        hidden = self._project(inner, "proj_in")(hidden).reshape(batch, height * width, inner)
        for i in range(self.depth):
            hidden = BasicTransformerBlock(
                num_heads=self.num_heads,
                head_dim=head_dim,
                only_cross_attention=self.only_cross_attention,
                dtype=self.dtype,
                kernels=self.kernels,
                name=f"transformer_blocks_{i}",
            )(hidden, tokens)
        hidden = self._project(channels, "proj_out")(hidden.reshape(-1, height, width, inner))
        hidden, inputs = match_batch(hidden, inputs)
        return hidden + inputs

    def _project(self, features: int, name: str) -> nn.Dense | Conv:
        """Make a layer that computes each position by itself."""
        if self.use_linear_projection:
            return nn.Dense(features, dtype=self.dtype, name=name)
        return Conv(features, **_ONE_BY_ONE, dtype=self.dtype, kernels=self.kernels, name=name)
