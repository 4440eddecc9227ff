"""Sigma-aligned multi-horizon matching: student and teacher compared at the same noise level."""

from __future__ import annotations

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.types import Array

# Keeps the cosine and its gradient finite at a zero vector; far below the squared norm of any latent.
_COSINE_EPS = 1e-8


def interpolation_matrix(
    teacher_sigmas: np.ndarray, student_sigmas: np.ndarray, *, interpolation: str
) -> np.ndarray:
    """Build the matrix that reads the teacher's clean estimates at the student's noise levels.

    linear: between the neighbours sigma_i > sigma_k > sigma_{i+1} the weight of i is
    (log sigma_k - log sigma_{i+1}) / (log sigma_i - log sigma_{i+1}), which is 0 where sigma_i is infinite;
    nearest: the teacher's level closest in log sigma, the noisier of two equally close.
    A student sigma that is also a teacher sigma takes exactly that row of the teacher, infinity included.

    Args:
        teacher_sigmas: [S] float64 in (0, inf], strictly descending: where the teacher was evaluated.
        student_sigmas: [K] float64 in (0, inf]: where the student was evaluated.
        interpolation: `linear` or `nearest`.

    Returns:
        [K, S] float32: each row not negative, at most two entries not 0, sum 1.

    Raises:
        ValueError: unknown interpolation, sigmas that are not as above, or a horizon outside the grid: a
            student sigma above the teacher's largest or below its smallest.

    Source: this project's reading of Li et al., Reward-Aware Trajectory Shaping, arXiv 2604.14910; the paper
        does not say how two grids without shared points are aligned.
    """
    chex.assert_rank([teacher_sigmas, student_sigmas], 1)
    if interpolation not in ("linear", "nearest"):
        raise ValueError(f"interpolation is {interpolation!r}, expected linear or nearest")
    teacher, student = np.asarray(teacher_sigmas, np.float64), np.asarray(student_sigmas, np.float64)
    if len(teacher) < 1 or not np.all(teacher > 0.0) or not np.all(teacher[1:] < teacher[:-1]):
        raise ValueError(f"teacher_sigmas are {teacher.tolist()}, expected positive and strictly descending")
    matrix = np.zeros((len(student), len(teacher)), np.float32)
    for k, sigma in enumerate(student):
        if not teacher[-1] <= sigma <= teacher[0]:
            raise ValueError(
                f"horizon outside the grid: student sigma {sigma} at step {k}, "
                f"teacher from {teacher[-1]} to {teacher[0]}"
            )
        upper = int(np.flatnonzero(teacher >= sigma)[-1])
        if teacher[upper] == sigma:
            matrix[k, upper] = 1.0
            continue
        log_upper, log_lower, log_sigma = np.log([teacher[upper], teacher[upper + 1], sigma])
        weight = np.float32((log_sigma - log_lower) / (log_upper - log_lower))
        if interpolation == "nearest":
            weight = np.float32(weight >= 0.5)
        matrix[k, upper], matrix[k, upper + 1] = weight, 1 - weight
    return matrix


def match_horizons(matrix: np.ndarray, teacher_denoised: Array) -> Array:
    """Read the teacher's clean estimates at the student's horizons.

    matched[k] = sum_s matrix[k, s] * teacher_denoised[s], written as two gathers: a matrix product would
    round the estimates to bfloat16 on TPU, and a row with a single 1 must return its estimate bit for bit.

    Args:
        matrix: [K, S], static, as made by `interpolation_matrix`: at most two entries of a row are not 0.
        teacher_denoised: [S, B, ...] float32.

    Returns:
        [K, B, ...] float32, linear in teacher_denoised.

    Raises:
        ValueError: a row of the matrix with no entry or more than two that are not 0.
    """
    chex.assert_rank(matrix, 2)
    chex.assert_axis_dimension(matrix, 1, teacher_denoised.shape[0])
    counts = np.count_nonzero(matrix, axis=1)
    if not np.all((1 <= counts) & (counts <= 2)):
        raise ValueError(f"matrix has {counts.tolist()} entries per row that are not 0, expected one or two")
    rows, num_levels = np.arange(len(matrix)), matrix.shape[1]
    first = np.argmax(matrix != 0.0, axis=1)
    last = num_levels - 1 - np.argmax(matrix[:, ::-1] != 0.0, axis=1)
    first_weight, last_weight = matrix[rows, first], np.where(last == first, 0.0, matrix[rows, last])

    def scaled(weight: np.ndarray, index: np.ndarray) -> Array:
        per_horizon = np.expand_dims(weight, tuple(range(1, teacher_denoised.ndim)))
        return jnp.asarray(per_horizon, teacher_denoised.dtype) * teacher_denoised[index]

    return scaled(first_weight, first) + scaled(last_weight, last)


def horizon_distance(student_denoised: Array, teacher_denoised: Array) -> Array:
    """Measure how far the student's clean estimates are from the teacher's, in direction and in value.

    d_k[b] = (1 - cos(x_S, x_T)) + mean((x_S - x_T)^2), both over all values of one sample.

    Args:
        student_denoised: x_S, [K, B, ...] float32.
        teacher_denoised: x_T at the same noise levels, the same shape.

    Returns:
        [K, B] float32, at least 0 up to rounding. The gradient flows into the student only, and is finite
        everywhere, at zero vectors as well.

    Source: Li et al., Reward-Aware Trajectory Shaping, arXiv 2604.14910, section 3.
    """
    chex.assert_equal_shape([student_denoised, teacher_denoised])
    chex.assert_axis_dimension_gt(student_denoised, 1, 0)
    # The teacher is the reference: it must not move towards the student.
    teacher_denoised = jax.lax.stop_gradient(teacher_denoised)
    sample_axes = tuple(range(2, student_denoised.ndim))

    def inverse_norm(x: Array) -> Array:
        return jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=sample_axes) + _COSINE_EPS)

    dot = jnp.sum(student_denoised * teacher_denoised, axis=sample_axes)
    cosine = dot * inverse_norm(student_denoised) * inverse_norm(teacher_denoised)
    return 1.0 - cosine + jnp.mean(jnp.square(student_denoised - teacher_denoised), axis=sample_axes)


def normalise_weights(weights: str | Sequence[float], num_horizons: int) -> np.ndarray:
    """Turn horizon weights as a configuration writes them into an array that sums to 1.

    Args:
        weights: `uniform`, or K numbers that are finite, not negative and not all 0, noisiest horizon first.
        num_horizons: K, at least 1.

    Returns:
        [K] float32 in [0, 1], sum 1.

    Raises:
        ValueError: another word, a wrong number of weights, or weights that are not as above.
    """
    if isinstance(weights, str):
        if weights != "uniform":
            raise ValueError(f"horizon weights are {weights!r}, expected uniform or {num_horizons} numbers")
        weights = [1.0] * num_horizons
    values = np.asarray(weights, np.float64)
    if values.shape != (num_horizons,) or num_horizons < 1:
        raise ValueError(f"horizon weights have shape {values.shape}, expected ({num_horizons},)")
    if not np.all(np.isfinite(values)) or np.any(values < 0.0) or values.sum() <= 0.0:
        raise ValueError(f"horizon weights are {values.tolist()}, expected none negative and a positive sum")
    return (values / values.sum()).astype(np.float32)


def shaping_loss(student_denoised: Array, teacher_denoised: Array, weights: np.ndarray | Array) -> Array:
    """Sum the distances of all horizons, weighted, per sample.

    L_shape[b] = sum_k w_k * d_k[b], with d_k of `horizon_distance`.

    Args:
        student_denoised: [K, B, ...] float32.
        teacher_denoised: the same shape, at the same noise levels.
        weights: w, [K] float32, sum 1.

    Returns:
        [B] float32, at least 0 up to rounding. The gradient flows into the student only.

    Source: Li et al., Reward-Aware Trajectory Shaping, arXiv 2604.14910, section 3.
    """
    chex.assert_shape(weights, (student_denoised.shape[0],))
    distances = horizon_distance(student_denoised, teacher_denoised)
    return jnp.sum(jnp.asarray(weights)[:, None] * distances, axis=0)
