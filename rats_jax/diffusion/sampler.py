"""Deterministic sampling steps with one signature, and the multistep correction of their clean estimate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import chex
import numpy as np

from rats_jax.types import Array, Grid


class StepFn(Protocol):
    """One step of a sampler: from the latents and the network's estimates to the next latents."""

    def __call__(
        self,
        latents: Array,
        denoised: Array,
        noise_estimate: Array,
        /,
        *,
        signal_rate: Array | float,
        noise_rate: Array | float,
        next_signal_rate: Array | float,
        next_noise_rate: Array | float,
    ) -> Array: ...


def ddim_step(
    latents: Array,
    denoised: Array,
    noise_estimate: Array,
    *,
    signal_rate: Array | float,
    noise_rate: Array | float,
    next_signal_rate: Array | float,
    next_noise_rate: Array | float,
) -> Array:
    """Take one deterministic DDIM step: diffuse the clean estimate to the next level by the noise estimate.

    x_next = next_signal_rate * x_0 + next_noise_rate * noise (eta = 0). It holds for diffusions and flows
    alike and divides by nothing, so it also starts from pure noise.

    Args:
        latents: x_t, [B, ...] float32; not read.
        denoised: the estimate of x_0, the same shape.
        noise_estimate: the estimate of the noise, the same shape.
        signal_rate: scalar or [B, 1, ...]; not read.
        noise_rate: the same; not read.
        next_signal_rate: scalar or [B, 1, ...] float32 in [0, 1].
        next_noise_rate: the same.

    Returns:
        The next latents, [B, ...] float32, differentiable in both estimates.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, eq. 12 with sigma = 0.
    """
    del signal_rate, noise_rate
    chex.assert_equal_shape([latents, denoised, noise_estimate])
    chex.assert_rank([next_signal_rate, next_noise_rate], {0, latents.ndim})
    return next_signal_rate * denoised + next_noise_rate * noise_estimate


def euler_step(
    latents: Array,
    denoised: Array,
    noise_estimate: Array,
    *,
    signal_rate: Array | float,
    noise_rate: Array | float,
    next_signal_rate: Array | float,
    next_noise_rate: Array | float,
) -> Array:
    """Take one Euler step of the probability-flow ODE in sigma = noise_rate / signal_rate.

    With x = latents / signal_rate (variance-exploding coordinates): dx/dsigma = (x - x_0) / sigma,
    x_next = x + (sigma_next - sigma) * dx/dsigma, and the next latents are next_signal_rate * x_next.

    Args:
        latents: x_t, [B, ...] float32.
        denoised: the estimate of x_0, the same shape.
        noise_estimate: the same shape; not read.
        signal_rate: scalar or [B, 1, ...] float32 in (0, 1]: sigma must be finite.
        noise_rate: the same shape, in (0, 1].
        next_signal_rate: the same shape, in (0, 1].
        next_noise_rate: the same shape, in [0, 1].

    Returns:
        The next latents, [B, ...] float32, differentiable in latents and denoised.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models,
        arXiv 2206.00364, algorithm 1 without its second-order correction.
    """
    chex.assert_equal_shape([latents, denoised, noise_estimate])
    chex.assert_rank([signal_rate, noise_rate, next_signal_rate, next_noise_rate], {0, latents.ndim})
    sigma = noise_rate / signal_rate
    next_sigma = next_noise_rate / next_signal_rate
    exploding = latents / signal_rate
    derivative = (exploding - denoised) / sigma
    return next_signal_rate * (exploding + (next_sigma - sigma) * derivative)


def second_order(grid: Grid) -> np.ndarray:
    """Weigh what each step of DPM-Solver++(2M) adds to its clean estimate from the one before.

    D_s = x_0(s) + c_s (x_0(s) - x_0(s - 1)), and the step goes on from D_s as DDIM would from x_0. With
    lambda = log(signal_rate / noise_rate) and h_s = lambda_{s+1} - lambda_s: c_s = h_s / (2 h_{s-1}).

    c_s is 0, which is DDIM, at the first step, after a step from pure noise (h_{s-1} infinite), and in the
    step that lands on data (h_s infinite).

    Args:
        grid: S noise levels.

    Returns:
        c, [S] float32, not negative.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, algorithm 2.
    """
    with np.errstate(divide="ignore"):
        signal, noise = (np.log(np.asarray(r, np.float64)) for r in (grid.signal_rates, grid.noise_rates))
    lengths = np.diff(signal - noise)
    weights = np.zeros(len(lengths))
    usable = np.isfinite(lengths[1:]) & np.isfinite(lengths[:-1])
    weights[1:][usable] = lengths[1:][usable] / (2.0 * lengths[:-1][usable])
    return weights.astype(np.float32)


def first_order(grid: Grid) -> None:
    """Add nothing: the clean estimate of each step is taken as it is."""
    del grid


class Sampler(NamedTuple):
    """A way to step along a grid: a step, and what it adds to the clean estimates.

    Attributes:
        step: from one noise level to the next.
        correction: grid -> [S] float32 as of `second_order`, or None for the estimates as they are.
    """

    step: StepFn
    correction: Callable[[Grid], np.ndarray | None]


SAMPLERS: Mapping[str, Sampler] = {
    "ddim": Sampler(ddim_step, first_order),
    "euler": Sampler(euler_step, first_order),
    "dpmpp_2m": Sampler(ddim_step, second_order),
}
"""By name."""
