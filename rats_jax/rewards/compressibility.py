"""How few bits a picture would take: a differentiable proxy of its size as a JPEG, without weights."""

from __future__ import annotations

import chex
import jax.numpy as jnp
import numpy as np

from rats_jax.rewards.base import without_weights
from rats_jax.types import Array, Params

# Source: ITU-T T.81 (the JPEG standard), tables K.1 and K.2: steps of quality 50, luma and chroma.
_LUMA = """
16 11 10 16 24 40 51 61    12 12 14 19 26 58 60 55    14 13 16 24 40 57 69 56    14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
_CHROMA = "17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66" + " 99" * 38
_STEPS = np.stack([np.array(t.split(), np.float32).reshape(8, 8) for t in (_LUMA, _CHROMA, _CHROMA)]) / 255
# Source: ITU-T T.871 (JFIF), RGB to YCbCr.
_COLOURS = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
_BLOCK = 8


def score_compressibility(params: Params, images: Array, prompt: Array) -> Array:
    """Estimate how few bits pictures would take; none is ever encoded.

    R = -mean over pixels and channels of log2(1 + (c / q)^2) / 2, with c the coefficients of 8 x 8 cosine
    transforms in YCbCr and q JPEG's steps at quality 50: about the bits that each would take if it were
    Gaussian. Real coders also count runs of zeros and share tables, so only the order of pictures means
    something, not the number.

    Args:
        params: not used.
        images: [B, H, W, 3] float32 in [0, 1]; sides that are no multiples of 8 are filled up with the edge.
        prompt: not used, empty rows [B, 0].

    Returns:
        [B] float32, at most 0; differentiable in images.

    Source:
        this project's proxy for the compressibility of Black et al., DDPO, arXiv 2305.13301, section 5.1.
    """
    del params, prompt
    chex.assert_rank(images, 4)
    batch, height, width, _ = images.shape
    margins = (0, 0), (0, -height % _BLOCK), (0, -width % _BLOCK), (0, 0)
    channels = jnp.pad(images, margins, mode="edge") @ _COLOURS.T
    blocks = channels.reshape(batch, -1, _BLOCK, channels.shape[2] // _BLOCK, _BLOCK, 3)
    basis = _cosines()
    coefficients = jnp.einsum("bhiwjc,ki,lj->bhwckl", blocks, basis, basis) / _STEPS
    # As in JPEG, a block's mean is coded as the difference from its left neighbour's.
    means = coefficients[..., 0, 0]
    coefficients = coefficients.at[..., 0, 0].set(jnp.diff(means, axis=2, prepend=means[:, :, :1]))
    return -jnp.mean(jnp.log2(1.0 + jnp.square(coefficients)), axis=(1, 2, 3, 4, 5)) / 2


def _cosines() -> np.ndarray:
    """Give the orthonormal basis of the cosine transform of type II: [frequency, position]."""
    frequency, position = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)
    basis = np.cos(np.pi * frequency * (2 * position + 1) / (2 * _BLOCK)) * np.sqrt(2 / _BLOCK)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


COMPRESSIBILITY_PROXY = without_weights(
    "compressibility_proxy",
    score_compressibility,
    lambda prompts: np.zeros((len(prompts), 0), np.float32),
)
