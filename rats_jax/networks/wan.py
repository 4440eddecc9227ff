"""Transformer of Wan2.1's text-to-video models.

Tokens of a video attend to each other, turned by their frame, row and column, and then to the prompt. Layers
are named and nested as in diffusers, so that `torch_name` of their path is the name in the file.

Source: Wan Team, Wan: Open and Advanced Large-Scale Video Generative Models, arXiv 2503.20314, section 4.2;
diffusers, models/transformers/transformer_wan.py, WanTransformer3DModel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import lecun_normal, normal, zeros

from rats_jax.fields import Field, expect, flag, integer, listed, number, only, read_fields
from rats_jax.networks.abstract import Network
from rats_jax.networks.attention import join_heads, split_heads
from rats_jax.networks.embeddings import TimestepEmbedding, timestep_embedding
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import gelu_tanh
from rats_jax.networks.mmdit import FeedForward, Rotary, modulate, rotary_tables, rotate
from rats_jax.networks.stack import stack
from rats_jax.types import Array, Key, Params

FIELDS: Mapping[str, Field] = {
    "patch_size": listed((1, 2, 2), integer(1, most=1000)),
    "num_attention_heads": integer(40),
    "attention_head_dim": integer(128, most=1024),
    "in_channels": integer(16),
    "out_channels": integer(16),
    "text_dim": integer(4096),
    "freq_dim": integer(256, least=2),
    "ffn_dim": integer(13824),
    "num_layers": integer(40, most=1000),
    "cross_attn_norm": flag(True),
    "qk_norm": only("rms_norm_across_heads"),  # the original computes it whatever the field says
    "eps": number(1e-6),
    "rope_max_seq_len": integer(1024),
    # Of models that start from a picture.
    **{name: only(None) for name in ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")},
}
"""Arguments of diffusers' WanTransformer3DModel."""


class PatchEmbedding(nn.Module):
    """Tokens of latents: a linear layer on patches, whose weights are those of a convolution.

    Attributes:
        features: D.
        patch_size: latents of a token in time, height and width.
        use_bias: whether there is a bias.
        dtype: of the computation and the result.
    """

    features: int
    patch_size: tuple[int, int, int]
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: Array) -> Array:
        """[B, T, H, W, C] -> [B, L, D], frame by frame and row by row."""
        tokens = cut(latents, self.patch_size).astype(self.dtype)
        shape = (*self.patch_size, latents.shape[-1], self.features)
        kernel = self.param("kernel", lecun_normal(), shape).astype(self.dtype)
        embedded = tokens @ kernel.reshape(-1, self.features)
        if not self.use_bias:
            return embedded
        return embedded + self.param("bias", zeros, (self.features,)).astype(self.dtype)


def cut(latents: Array, patch_size: tuple[int, int, int]) -> Array:
    """Cut latents [B, T, H, W, C] into tokens [B, L, patch's T * H * W * C]."""
    batch, *sizes, channels = latents.shape
    counts = [size // patch for size, patch in zip(sizes, patch_size, strict=True)]
    (t, h, w), (p, q, r) = counts, patch_size
    grid = latents.reshape(batch, t, p, h, q, w, r, channels)
    return grid.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, t * h * w, -1)


def join(tokens: Array, patch_size: tuple[int, int, int], sizes: tuple[int, int, int]) -> Array:
    """Undo `cut`; `sizes` are T, H and W of the latents."""
    counts = [size // patch for size, patch in zip(sizes, patch_size, strict=True)]
    (t, h, w), (p, q, r) = counts, patch_size
    grid = tokens.reshape(tokens.shape[0], t, h, w, p, q, r, -1)
    return grid.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(tokens.shape[0], *sizes, -1)


def token_positions(counts: tuple[int, int, int]) -> np.ndarray:
    """List frame, row and column of the tokens of a video of so many of each: [L, 3]."""
    return np.indices(counts).reshape(3, -1).T


class TextProjection(nn.Module):
    """Two linear layers that bring tokens of a prompt to the transformer's width: [B, M, P] -> [B, M, D].

    Source: PixArtAlphaTextProjection in diffusers/models/embeddings.py.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, context: Array) -> Array:
        """Project each token."""
        hidden = nn.Dense(self.features, dtype=self.dtype, name="linear_1")(context)
        hidden = gelu_tanh(hidden)
        return nn.Dense(self.features, dtype=self.dtype, name="linear_2")(hidden)


class WanTimeTextEmbedding(nn.Module):
    """Embeddings of the noise level and of the prompt.

    Attributes:
        features: D.
        freq_dim: sinusoids of a timestep.
        dtype: of the prompt's; those of the noise level are float32.

    Source: WanTimeTextImageEmbedding in diffusers/models/transformers/transformer_wan.py.
    """

    features: int
    freq_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, timestep: Array, context: Array) -> tuple[Array, Array, Array]:
        """Embed timesteps [B] and tokens [B, M, P].

        Returns:
            The level's embedding [B, 1, D], what all blocks are modulated with [B, 6, D], both float32, and
            the tokens [B, M, D].
        """
        sinusoids = timestep_embedding(timestep, self.freq_dim, flip_sin_to_cos=True, freq_shift=0.0)
        level = TimestepEmbedding(self.features, name="time_embedder")(sinusoids)
        modulation = nn.Dense(6 * self.features, name="time_proj")(jax.nn.silu(level))
        text = TextProjection(self.features, self.dtype, name="text_embedder")(context)
        return level[:, None], modulation.reshape(-1, 6, self.features), text


def by_rows(layer: Callable[[Array], Array], tokens: Array) -> Array:
    """Apply a linear layer or a perceptron to [B, L, D] as to the rows of one matrix: [B, L, D'].

    For the gradient of each kernel, XLA's CPU backend would transpose a copy of [B, L, D'].
    """
    rows = layer(tokens.reshape(-1, tokens.shape[-1]))
    return rows.reshape(*tokens.shape[:-1], -1)


class WanAttention(nn.Module):
    """Attention among the tokens of a video, or from them to those of the prompt.

    Queries and keys are normalised over the features of all heads together.

    Attributes:
        num_heads: N.
        head_dim: features of a head.
        epsilon: added to the mean square in the norms.
        dtype: of matrix products and their results.
        kernels: of the device.
    """

    num_heads: int
    head_dim: int
    epsilon: float
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, hidden: Array, context: Array | None = None, rotary: Rotary | None = None) -> Array:
        """Let tokens [B, L, D] read each other, or those of `context` [B, M, D] where there is one."""
        width = self.num_heads * self.head_dim

        def project(tokens: Array, name: str) -> Array:
            return by_rows(nn.Dense(width, dtype=self.dtype, name=name), tokens)

        def normed(tokens: Array, name: str) -> Array:
            return nn.RMSNorm(epsilon=self.epsilon, dtype=self.dtype, name=name)(tokens)

        source = hidden if context is None else context
        query = normed(project(hidden, "to_q"), "norm_q")
        key, value = normed(project(source, "to_k"), "norm_k"), project(source, "to_v")
        query, key, value = (split_heads(part, self.num_heads) for part in (query, key, value))
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        return project(join_heads(self.kernels.attend(query, key, value)), "to_out_0")


class WanTransformerBlock(nn.Module):
    """Self-attention, attention to the prompt, perceptron.

    Attributes:
        num_heads, head_dim: of attention.
        ffn_dim: features inside the perceptron.
        cross_attn_norm: whether tokens are normalised before they read the prompt.
        epsilon: of all norms.
        dtype: of matrix products and of what is carried from block to block; norms, modulation and sums
            are float32.
        kernels: of the device.
    """

    num_heads: int
    head_dim: int
    ffn_dim: int
    cross_attn_norm: bool
    epsilon: float
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(
        self, hidden: Array, context: Array, modulation: Array, rotary: Rotary
    ) -> tuple[Array, None]:
        """Refine the tokens of a video [B, L, D]; modulation is [B, 6, D] float32."""
        width = hidden.shape[-1]
        table = self.param("scale_shift_table", normal(width**-0.5), (1, 6, width))
        numbers = table.astype(jnp.float32) + modulation
        shift, scale, gate, f_shift, f_scale, f_gate = jnp.split(numbers, 6, axis=1)

        def attention(name: str) -> WanAttention:
            of_device = {"dtype": self.dtype, "kernels": self.kernels}
            return WanAttention(self.num_heads, self.head_dim, self.epsilon, **of_device, name=name)

        def add(hidden: Array, gate: Array, change: Array) -> Array:
            wide = hidden.astype(jnp.float32) + gate * change.astype(jnp.float32)
            return wide.astype(hidden.dtype)

        read = attention("attn1")(modulate(hidden, shift, scale, epsilon=self.epsilon), rotary=rotary)
        hidden = add(hidden, gate, read)
        normed = hidden
        if self.cross_attn_norm:
            norm = nn.LayerNorm(self.epsilon, dtype=jnp.float32, use_fast_variance=False, name="norm2")
            normed = norm(hidden).astype(hidden.dtype)
        hidden = hidden + attention("attn2")(normed, context)
        normed = modulate(hidden, f_shift, f_scale, epsilon=self.epsilon)
        return add(hidden, f_gate, by_rows(FeedForward(self.dtype, self.ffn_dim, name="ffn"), normed)), None


class WanTransformer3DModel(Network):
    """Wan2.1's transformer.

    Attributes:
        patch_size: latents of a token in time, height and width.
        num_attention_heads, attention_head_dim: of attention.
        in_channels, out_channels: of latents and of the prediction.
        text_dim: features of a token of the prompt.
        freq_dim: sinusoids of a timestep.
        ffn_dim: features inside the perceptrons.
        num_layers: of the blocks.
        cross_attn_norm: whether tokens are normalised before they read the prompt.
        eps: of all norms.
        rope_max_seq_len: most tokens along each axis of a video.
        dtype: of matrix products; norms, modulation, softmax and positions are float32.
        kernels: of the device.
    """

    patch_size: tuple[int, int, int]
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    text_dim: int
    freq_dim: int
    ffn_dim: int
    num_layers: int
    cross_attn_norm: bool
    eps: float
    rope_max_seq_len: int
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, dtype: Any = jnp.float32, kernels: Kernels = PLAIN
    ) -> WanTransformer3DModel:
        """Build it from a diffusers config.json.

        Args:
            config: its content.
            dtype: compute dtype.
            kernels: of the device.

        Raises:
            ValueError: a field is not computed here: 'name=value: expected ...'.
        """
        values = read_fields(config, FIELDS)
        for name in ("qk_norm", "image_dim", "added_kv_proj_dim", "pos_embed_seq_len"):
            del values[name]
        patch, head = values["patch_size"], values["attention_head_dim"]
        expect(len(patch) == 3, "patch_size", patch, "three integers, of frames, rows and columns")
        holds = head >= 6 and head % 2 == 0  # each axis of a position has features of its own
        expect(holds, "attention_head_dim", head, "an even number >= 6")
        return cls(**values, dtype=dtype, kernels=kernels)

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights."""
        latents = jnp.zeros((1, *self.patch_size, self.in_channels))
        return self.init(key, latents, jnp.zeros((1, 1, self.text_dim)), jnp.zeros(1))["params"]

    def rotary(self, counts: tuple[int, int, int]) -> Rotary:
        """Give the angles of the tokens of a video, of which there are so many along each axis."""
        rows = 2 * (self.attention_head_dim // 6)
        return rotary_tables(token_positions(counts), (self.attention_head_dim - 2 * rows, rows, rows))

    @nn.compact
    def __call__(self, latents: Array, context: Array, timestep: Array) -> Array:
        """Predict the velocity of noisy latents.

        Args:
            latents: [B, T, H, W, in_channels], whose T, H and W are multiples of the patch's.
            context: [B, M, text_dim], of the prompt.
            timestep: [B] float32, sigma * 1000.

        Returns:
            [B, T, H, W, out_channels] in `dtype`, differentiable in the weights and all arrays.

        Raises:
            ValueError: latents that patches do not cover, or with more tokens along an axis than
                rope_max_seq_len.
        """
        chex.assert_rank([latents, context, timestep], [5, 3, 1])
        _, frames, height, width, _ = latents.shape
        sizes, patch = (frames, height, width), self.patch_size
        counts = frames // patch[0], height // patch[1], width // patch[2]
        if any(size % part for size, part in zip(sizes, patch, strict=True)):
            raise ValueError(f"latents of {sizes}: expected multiples of patch_size={patch}")
        if max(counts) > self.rope_max_seq_len:
            raise ValueError(
                f"{counts} tokens along the axes: expected at most rope_max_seq_len={self.rope_max_seq_len}"
            )
        features = self.num_attention_heads * self.attention_head_dim
        embed = WanTimeTextEmbedding(features, self.freq_dim, self.dtype, name="condition_embedder")
        level, modulation, context = embed(timestep, context)
        hidden = PatchEmbedding(features, patch, dtype=self.dtype, name="patch_embedding")(latents)
        blocks = stack(
            WanTransformerBlock,
            "blocks",
            0,
            self.num_layers,
            num_heads=self.num_attention_heads,
            head_dim=self.attention_head_dim,
            ffn_dim=self.ffn_dim,
            cross_attn_norm=self.cross_attn_norm,
            epsilon=self.eps,
            dtype=self.dtype,
            kernels=self.kernels,
        )
        hidden, _ = blocks(hidden, context, modulation, self.rotary(counts))
        table = self.param("scale_shift_table", normal(features**-0.5), (1, 2, features))
        shift, scale = jnp.split(table.astype(jnp.float32) + level, 2, axis=1)
        normed = modulate(hidden, shift, scale, epsilon=self.eps)
        project = nn.Dense(self.out_channels * math.prod(patch), dtype=self.dtype, name="proj_out")
        return join(project(normed), patch, sizes)
