"""Perceptual distances of pictures and of sets of pictures: LPIPS and a Fréchet distance.

Both look with the AlexNet of `rats_jax.networks.alexnet`. The Fréchet distance is therefore called
FID-AlexNet wherever it is reported: it ranks contestants like FID, but no number of it compares with FID on
Inception.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.networks.alexnet import features
from rats_jax.types import Array, Params


def lpips(params: Params, first: Array, second: Array) -> Array:
    """Measure how different two pictures look: LPIPS 0.1 on AlexNet, with the linear heads.

    Over the five activations, each of unit length over channels at every place: the sum of
    mean_places sum_c head_c (first_c - second_c)^2.

    Args:
        params: from `load_alexnet`.
        first: [B, H, W, 3] float32 in [0, 1]; see `features` for what happens to small ones.
        second: [B, H, W, 3] float32 in [0, 1].

    Returns:
        [B] float32: 0 for equal pictures, symmetric, seldom above 1. Differentiable in both.

    Source: Zhang et al., arXiv:1801.03924, equation 1, with the scaling of colours of version 0.1.
    """
    if first.shape != second.shape:
        raise ValueError(f"first is {first.shape} and second is {second.shape}, expected one shape")
    return _distance(params, _unit_features(params, first), _unit_features(params, second))


def lpips_diversity(params: Params, images: Array) -> Array:
    """Measure how different the pictures of one prompt look from seed to seed.

    The mean `lpips` of all pairs of different seeds. Every picture is looked at once.

    Args:
        params: from `load_alexnet`.
        images: [P, S, H, W, 3] float32 in [0, 1]: P prompts, S seeds of each, at least 2.

    Returns:
        [P] float32; 0 if the seed no longer matters.
    """
    num_prompts, num_seeds = images.shape[:2]
    if num_seeds < 2:
        raise ValueError(f"images has {num_seeds} seeds of each prompt, expected at least 2")
    flat = _unit_features(params, images.reshape(-1, *images.shape[2:]))
    seen = [x.reshape(num_prompts, num_seeds, *x.shape[1:]) for x in flat]

    def distance(pair: tuple[Array, Array]) -> Array:
        first, second = ([x[:, i] for x in seen] for i in pair)
        return _distance(params, first, second)

    # One pair at a time: the differences of all pairs at once would take S / 2 times the memory of `seen`.
    pairs = tuple(jnp.asarray(i) for i in np.triu_indices(num_seeds, k=1))
    return jnp.mean(jax.lax.map(distance, pairs), axis=0)


def pooled_features(params: Params, images: Array) -> Array:
    """Describe pictures by 256 numbers, for `frechet_distance`: the last activation, averaged over places.

    Args:
        params: from `load_alexnet`.
        images: [B, H, W, 3] float32 in [0, 1]; see `features` for what happens to small ones.

    Returns:
        [B, 256] float32, not negative.
    """
    return jnp.mean(features(params, images)[-1], axis=(1, 2))


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Measure how far apart two sets are, each taken for a Gaussian: FID-AlexNet of `pooled_features`.

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)). The last trace is the sum of the roots of the
    eigenvalues of S_1^(1/2) S_2 S_1^(1/2), which are the singular values of S_1^(1/2) S_2^(1/2): so taken,
    nothing is complex, and both sets can be swapped.

    Args:
        first: [N, D], N at least 2.
        second: [M, D], M at least 2.

    Returns:
        At least 0, in float64. Of small sets it is too large (two samples of 100 of one distribution are
        far from 0), so only numbers from sets of the same sizes compare; D or fewer pictures work as well.

    Raises:
        ValueError: a set of fewer than 2, of numbers that are not finite, or of another D.

    Source: Heusel et al., arXiv:1706.08500, equation 6; Dowson and Landau, Journal of Multivariate Analysis
    12, 1982. Covariances are unbiased (divided by N - 1), as in the usual implementations.
    """
    (mean_1, root_1, trace_1), (mean_2, root_2, trace_2) = (
        _gaussian("first", first),
        _gaussian("second", second),
    )
    if mean_1.shape != mean_2.shape:
        raise ValueError(f"first has {mean_1.size} numbers a row and second {mean_2.size}, expected as many")
    shared = np.linalg.svd(root_1 @ root_2, compute_uv=False).sum()
    distance = np.sum(np.square(mean_1 - mean_2)) + trace_1 + trace_2 - 2.0 * shared
    return max(float(distance), 0.0)  # rounding takes that of equal sets below 0


def _gaussian(name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean [D], root of the covariance [D, D] and its trace, of rows [N, D] in float64."""
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"{name} is {rows.shape}, expected [N, D] with N at least 2")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} has numbers that are not finite")
    covariance = np.atleast_2d(np.cov(rows, rowvar=False))
    values, vectors = np.linalg.eigh(covariance)
    # Eigenvalues of 0 come out as small negative ones.
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return rows.mean(axis=0), root, float(np.trace(covariance))


def _unit_features(params: Params, images: Array) -> list[Array]:
    """Give the activations unit length over channels; where all are 0, they stay so."""
    # LPIPS adds 1e-10 to the length; this is the same to float32, and has a finite gradient at 0.
    return [
        x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-20)
        for x in features(params, images)
    ]


def _distance(params: Params, first: list[Array], second: list[Array]) -> Array:
    """LPIPS of activations [B, h, w, c] that have unit length: [B]."""
    # Products and a sum, not `@`, which rounds its factors on accelerators.
    by_layer = [
        jnp.mean(jnp.sum(jnp.square(a - b) * head, axis=-1), axis=(1, 2))
        for a, b, head in zip(first, second, params["heads"], strict=True)
    ]
    return jnp.sum(jnp.stack(by_layer), axis=0)
