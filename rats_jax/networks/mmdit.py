"""Multimodal diffusion transformer: what the transformers of FLUX and Stable Diffusion 3 share.

Tokens of the picture and tokens of the prompt have weights of their own and attend to each other. Parameters
are named and nested as in diffusers, so that `torch_name` of their path is the name in the file.

Source: Esser et al., Scaling Rectified Flow Transformers, arXiv 2403.03206, section 4 and figure 2;
diffusers, models/attention.py, models/normalization.py, models/transformers/transformer_flux.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rats_jax.networks.attention import join_heads, split_heads
from rats_jax.networks.embeddings import TimestepEmbedding, timestep_embedding
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import gelu_tanh
from rats_jax.types import Array

EPSILON = 1e-6
"""Added to the variance in every norm."""
_SINUSOIDS = 256
_MLP_RATIO = 4


class Rotary(NamedTuple):
    """Angles by which pairs of features are turned, [L, D / 2] float32 each."""

    cos: np.ndarray
    sin: np.ndarray


def rotary_tables(ids: np.ndarray, axes_dims: tuple[int, ...], *, theta: float = 10_000.0) -> Rotary:
    """Compute the angles of rotary position embeddings of several axes.

    Pair j of axis a turns by ids[:, a] * theta ** (-2 j / axes_dims[a]); the pairs of all axes follow each
    other.

    Args:
        ids: [L, A] positions.
        axes_dims: A even numbers, the features of each axis; together the D of a head.
        theta: base of the frequencies.

    Returns:
        Tables [L, D / 2], computed in float64 as the originals are.

    Source: Su et al., RoFormer, arXiv 2104.09864, eq. 34; FluxPosEmbed in diffusers.
    """
    chex.assert_rank(ids, 2)
    angles = [
        ids[:, axis, None].astype(np.float64) * theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        for axis, dim in enumerate(axes_dims)
    ]
    angle = np.concatenate(angles, axis=1)
    return Rotary(np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32))


def rotate(x: Array, rotary: Rotary) -> Array:
    """Turn neighbouring pairs of features of [B, L, N, D] by their angles, in float32; keeps the dtype."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    cos, sin = (table[None, :, None, :] for table in rotary)
    first, second = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def modulate(x: Array, shift: Array, scale: Array, *, epsilon: float = EPSILON) -> Array:
    """Normalise each token of [B, L, D] and give it a new mean and spread: norm(x) * (1 + scale) + shift.

    The norm has no weights; shift and scale are [B, 1, D]; epsilon is added to the variance. Computed in
    float32; keeps the dtype of x.
    """
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    normed = centred * lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + epsilon)
    return (normed * (1.0 + scale.astype(jnp.float32)) + shift.astype(jnp.float32)).astype(x.dtype)


class Modulation(nn.Module):
    """Numbers that the embedding of time and prompt modulates a block with.

    Attributes:
        count: of the numbers for each feature.
        dtype: of the computation and the result.

    Source: AdaLayerNormZero, AdaLayerNormZeroSingle, SD35AdaLayerNormZeroX and AdaLayerNormContinuous in
        diffusers/models/normalization.py: the same layer, told apart by what its parts are used for.
    """

    count: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, embedding: Array) -> list[Array]:
        """Compute `count` arrays [B, 1, D] from [B, D]."""
        chex.assert_rank(embedding, 2)
        width = embedding.shape[-1]
        numbers = nn.Dense(self.count * width, dtype=self.dtype, name="linear")(jax.nn.silu(embedding))
        return jnp.split(numbers[:, None, :], self.count, axis=-1)


class TimeTextEmbedding(nn.Module):
    """Embedding of the noise level and of the pooled prompt, and of the guidance scale where there is one.

    Attributes:
        features: D.
        dtype: of the computation and the result; sinusoids are float32.

    Source: CombinedTimestepGuidanceTextProjEmbeddings in diffusers/models/embeddings.py.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, timestep: Array, pooled: Array, guidance: Array | None = None) -> Array:
        """Embed timesteps [B], 0 to 1000, pooled prompts [B, P], guidance scales * 1000 [B]: [B, D]."""
        numbers = {"timestep_embedder": timestep} | (
            {} if guidance is None else {"guidance_embedder": guidance}
        )
        embedding = TimestepEmbedding(self.features, dtype=self.dtype, name="text_embedder")(pooled)
        for name, number in numbers.items():
            sinusoids = timestep_embedding(number, _SINUSOIDS, flip_sin_to_cos=True, freq_shift=0.0)
            embedding += TimestepEmbedding(self.features, dtype=self.dtype, name=name)(sinusoids)
        return embedding


class _Project(nn.Module):
    """First layer of the perceptron, which the names in files count as a module."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return gelu_tanh(nn.Dense(self.features, dtype=self.dtype, name="proj")(x))


class FeedForward(nn.Module):
    """Perceptron of two layers: [B, L, D] -> [B, L, D].

    Attributes:
        dtype: of matrix products and their results.
        inner: features between the layers; None is four times as many as outside.
    """

    dtype: Any = jnp.float32
    inner: int | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Run it on each token."""
        width = x.shape[-1]
        hidden = _Project(self.inner or _MLP_RATIO * width, self.dtype, name="net_0")(x)
        return nn.Dense(width, dtype=self.dtype, name="net_2")(hidden)


class Attention(nn.Module):
    """Attention within the tokens of a picture, or of picture and prompt together.

    Attributes:
        num_heads: N.
        head_dim: features of a head.
        qk_norm: whether queries and keys are normalised, head by head.
        text_first: whether the prompt's tokens stand before the picture's: FLUX; SD3 has them behind.
        out: whether what is read goes through a last layer.
        context_out: whether that of the prompt's tokens does, or is not needed any more.
        dtype: of matrix products and their results.
        kernels: of the device.

    Source: FluxAttention in diffusers/models/transformers/transformer_flux.py; Attention with
        JointAttnProcessor2_0 in diffusers/models/attention_processor.py.
    """

    num_heads: int
    head_dim: int
    qk_norm: bool = True
    text_first: bool = False
    out: bool = True
    context_out: bool = True
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(
        self, hidden: Array, context: Array | None = None, rotary: Rotary | None = None
    ) -> tuple[Array, Array | None]:
        """Let tokens read each other.

        Args:
            hidden: [B, L, D], of the picture, or of both in one.
            context: [B, M, D], of the prompt, or None.
            rotary: angles of all tokens in the order in which they stand, or None.

        Returns:
            What the tokens of `hidden` and of `context` read, [B, L, D] and [B, M, D], or None.
        """
        chex.assert_rank(hidden, 3)
        projected = self._project(hidden, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        if context is not None:
            names = ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k")
            added = self._project(context, *names)
            pairs = (
                zip(added, projected, strict=True) if self.text_first else zip(projected, added, strict=True)
            )
            projected = tuple(jnp.concatenate(pair, axis=1) for pair in pairs)
        query, key, value = projected
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        attended = join_heads(self.kernels.attend(query, key, value))
        if context is None:
            return self._finish(attended, "to_out_0", self.out), None
        lengths = (context.shape[1], hidden.shape[1]) if self.text_first else (hidden.shape[1],)
        first, second = jnp.split(attended, [lengths[0]], axis=1)
        image, text = (second, first) if self.text_first else (first, second)
        return (
            self._finish(image, "to_out_0", self.out),
            self._finish(text, "to_add_out", True) if self.context_out else None,
        )

    def _project(
        self, x: Array, names: tuple[str, str, str], norms: tuple[str, str]
    ) -> tuple[Array, Array, Array]:
        width = self.num_heads * self.head_dim
        query, key, value = (
            split_heads(nn.Dense(width, dtype=self.dtype, name=name)(x), self.num_heads) for name in names
        )
        if self.qk_norm:
            query, key = (
                nn.RMSNorm(epsilon=EPSILON, dtype=self.dtype, name=name)(part)
                for name, part in zip(norms, (query, key), strict=True)
            )
        return query, key, value

    def _finish(self, attended: Array, name: str, has_layer: bool) -> Array:
        if not has_layer:
            return attended
        return nn.Dense(attended.shape[-1], dtype=self.dtype, name=name)(attended)
