"""Attention of several heads, by XLA on any device or by cuDNN's flash kernel on NVIDIA's GPUs."""

from __future__ import annotations

from typing import Protocol

import chex
import jax
import jax.numpy as jnp

from rats_jax.types import Array

# What the kernels of cuDNN take on every GPU that has them.
_MOST_FEATURES, _FEATURES_STEP, _LENGTHS_STEP = 128, 8, 64
# From so many queries on it is worth filling them up.
_LEAST_FILLED = 1024
# From so many keys on XLA's CPU backend sums a row of scores in two passes.
_LEAST_IN_COLUMNS = 33


class AttendFn(Protocol):
    """softmax(Q K^T / sqrt(D)) V in each of N heads.

    (query [B, L, N, D], key [B, M, N, D], value [B, M, N, D], mask [..., L, M] bool or None) -> [B, L, N, D];
    a mask, which broadcasts to [B, N, L, M], is false where nothing may be read.
    """

    def __call__(self, query: Array, key: Array, value: Array, mask: Array | None = None) -> Array: ...


def attend(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """Attend with a matrix of all scores; the softmax is float32 whatever the inputs are.

    Args: as of `AttendFn`.

    Returns:
        [B, L, N, D] in the dtype of the inputs, differentiable in all three.

    Source: Vaswani et al., Attention Is All You Need, arXiv 1706.03762, eq. 1.
    """
    chex.assert_rank([query, key, value], 4)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    scores = jnp.einsum("xld,xmd->xlm", *map(_merge, (query, key)))
    scores = scores.reshape(*query.shape[:3], key.shape[2]) * query.shape[-1] ** -0.5
    scores = scores.astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    attended = jnp.einsum("xlm,xmd->xld", *map(_merge, (weights, value)))
    return attended.reshape(query.shape).swapaxes(1, 2)


def attend_in_columns(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """Attend as `attend`, with the scores of a query in a column, as a CPU likes them.

    XLA's CPU backend then adds rows of many queries; scores in a row it adds one by one, in two passes. They
    are divided by their sum after the second product, where there are fewer numbers. Few keys and masks take
    `attend`.
    """
    if mask is not None or key.shape[1] < _LEAST_IN_COLUMNS:
        return attend(query, key, value, mask)
    query, key, value = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    scores = jnp.einsum("xmd,xld->xml", _merge(key), _merge(query)).astype(jnp.float32)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=1, keepdims=True)))
    attended = jnp.einsum("xml,xmd->xld", weights.astype(value.dtype), _merge(value))
    attended = attended / jnp.sum(weights, axis=1)[..., None]
    return attended.astype(value.dtype).reshape(query.shape).swapaxes(1, 2)


def _merge(x: Array) -> Array:
    """Make one axis of the batch and the heads: gradients keep the bits that they had with diffusers."""
    return x.reshape(-1, *x.shape[2:])


def attend_cudnn(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """Attend without a matrix of scores where cuDNN can, else as `attend`.

    The kernel takes 16-bit numbers, up to 128 features a head, a multiple of 8, and lengths that are
    multiples of 64. Other keys, as the 77 of a CLIP prompt, are filled up with tokens that nobody reads, and
    so are queries from 1024 on, as the 1357 of SD3; shorter ones, as the 257 of a ViT, have few scores.
    """
    lengths = query.shape[1], key.shape[1]
    is_whole = [length % _LENGTHS_STEP == 0 for length in lengths]
    fits = (
        mask is None
        and query.dtype.itemsize == 2
        and query.shape[-1] <= _MOST_FEATURES
        and query.shape[-1] % _FEATURES_STEP == 0
        and (is_whole[0] or lengths[0] >= _LEAST_FILLED)
    )
    if not fits:
        return attend(query, key, value, mask)
    if all(is_whole):
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    filled = (
        jnp.pad(x, ((0, 0), (0, -x.shape[1] % _LENGTHS_STEP), (0, 0), (0, 0))) for x in (query, key, value)
    )
    counts = {
        name: jnp.full(query.shape[:1], length, jnp.int32)
        for name, length in zip(("query_seq_lengths", "key_value_seq_lengths"), lengths, strict=True)
    }
    attended = jax.nn.dot_product_attention(*filled, **counts, implementation="cudnn")
    return attended[:, : lengths[0]]


def split_heads(x: Array, num_heads: int) -> Array:
    """Cut the features of [B, L, N * D] into heads: [B, L, N, D]."""
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def join_heads(x: Array) -> Array:
    """Undo `split_heads`: [B, L, N, D] -> [B, L, N * D]."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
