"""A rollout: all steps of a sampler, from noise to data, as one differentiable function."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.diffusion.prediction import to_denoised, to_noise
from rats_jax.diffusion.sampler import StepFn, euler_step
from rats_jax.types import Array, DenoiseFn, Grid, Params, Trajectory


def _is_matmul(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("dot_general", "conv_general_dilated")


# The latents, the estimate of the step before, and the estimates that are kept; None where there are none.
_Carry = tuple[Array, Any, Any]
_REMAT_POLICIES = {"step": None, "matmuls": _is_matmul}


def rollout(
    denoise_fn: DenoiseFn,
    params: Params,
    noise: Array,
    embeds: Any,
    *,
    grid: Grid,
    prediction_type: str,
    step_fn: StepFn,
    gradient_steps: int,
    remat: str,
    unroll: bool,
    correction: np.ndarray | None = None,
    keep: np.ndarray | None = None,
) -> Trajectory:
    """Sample deterministically from noise along a grid and keep the clean estimate of every step.

    x_0 = noise; for s in 0 .. S - 1: output = network(x_s, timesteps[s]), denoised[s] = to_denoised(output),
    x_{s+1} = step_fn(x_s, denoised[s], ...). The latents start at `noise` itself, whatever the signal rate of
    position 0, as the DDIM of diffusers does.

    Args:
        denoise_fn: (params, latents, timestep [], embeds) -> model_output, any float dtype.
        params: the network's weights.
        noise: standard normal, [B, ...] float32.
        embeds: what denoise_fn is conditioned on, a pytree of [B, ...].
        grid: S noise levels; static.
        prediction_type: `epsilon`, `v_prediction`, `sample` or `flow`.
        step_fn: `ddim_step` or `euler_step`.
        gradient_steps: k from 1 to S: the gradient of the final latents reaches the last k steps only.
        remat: what the backward pass computes again: `none`, all of a `step`, or all but its `matmuls` and
            convolutions, whose results are stored.
        unroll: compile S copies of the step instead of one loop.
        correction: [S], of `second_order`: each step goes on from its clean estimate plus so much of what
            changed in it since the step before; the estimates that are returned are the network's own.
        keep: the steps whose clean estimates are returned, ascending; None is all S of them, which need
            memory for as many.

    Returns:
        A Trajectory in float32. The latents that enter step S - k carry no gradient when k < S, so early
        steps are reached only by the early clean estimates; with k = S it is complete, into noise as well.

    Raises:
        ValueError: gradient_steps out of range, a grid whose arrays do not match, or a grid with a signal
            rate of 0 under `epsilon` or `euler_step`, both of which divide by it.

    Source: Song et al., arXiv 2010.02502, section 4; the truncation: Clark et al., Directly Fine-Tuning
        Diffusion Models on Differentiable Rewards, arXiv 2309.17400 (DRaFT-K).
    """
    chex.assert_axis_dimension_gt(noise, 0, 0)
    chex.assert_type(noise, jnp.float32)
    num_steps = len(grid.timesteps)
    if not 1 <= gradient_steps <= num_steps:
        raise ValueError(
            f"gradient_steps is {gradient_steps}, expected from 1 to {num_steps}, the number of steps"
        )
    _check_grid(grid, prediction_type, step_fn)

    def step(carry: _Carry, level: tuple[Array, ...]) -> tuple[_Carry, Any]:
        latents, previous, kept = carry
        slot, timestep, signal_rate, noise_rate, next_signal_rate, next_noise_rate, *weight = level
        # The network may compute in bfloat16; stored latents rounded to it would bias the trajectory.
        model_output = denoise_fn(params, latents, timestep, embeds).astype(jnp.float32)
        read = (model_output, latents, signal_rate, noise_rate)
        denoised = to_denoised(*read, prediction_type=prediction_type)
        estimate, noise_estimate = denoised, to_noise(*read, prediction_type=prediction_type)
        if weight:
            # Clean estimate and noise stay a pair that makes these latents.
            change = weight[0] * (denoised - previous)
            estimate, noise_estimate = estimate + change, noise_estimate - signal_rate / noise_rate * change
        next_latents = step_fn(
            latents,
            estimate,
            noise_estimate,
            signal_rate=signal_rate,
            noise_rate=noise_rate,
            next_signal_rate=next_signal_rate,
            next_noise_rate=next_noise_rate,
        )
        previous = denoised if weight else previous
        if kept is None:
            return (next_latents, previous, None), denoised
        kept = jax.lax.dynamic_update_index_in_dim(kept, denoised, slot, 0)
        return (next_latents, previous, kept), None

    if remat != "none":
        # Inside a loop XLA cannot merge the recomputation with the forward pass; unrolled it could, and in a
        # loop of one turn, which it unrolls.
        no_loop = unroll or 1 in (gradient_steps, num_steps - gradient_steps)
        step = jax.checkpoint(step, prevent_cse=no_loop, policy=_REMAT_POLICIES[remat])
    slots = np.zeros(num_steps, np.int32)
    if keep is not None:  # all others share one more slot, which is thrown away
        slots = np.full(num_steps, len(keep), np.int32)
        slots[keep] = np.arange(len(keep))
    levels = (
        *(slots, grid.timesteps),
        *(grid.signal_rates[:-1], grid.noise_rates[:-1]),
        *(grid.signal_rates[1:], grid.noise_rates[1:]),
        *(() if correction is None else (correction,)),
    )

    def run(carry: _Carry, segment: slice) -> tuple[_Carry, Any]:
        segment_levels = tuple(jnp.asarray(level[segment]) for level in levels)
        return jax.lax.scan(step, carry, segment_levels, unroll=unroll)

    previous = None if correction is None else jnp.zeros_like(noise)
    kept = None if keep is None else jnp.zeros((len(keep) + 1, *noise.shape), noise.dtype)
    early, split = [], num_steps - gradient_steps
    carry = noise, previous, kept
    if split:
        (latents, previous, kept), denoised = run(carry, slice(None, split))
        # Chained Jacobians inflate the gradient of early steps: what follows sees these latents as given.
        carry, early = (*jax.lax.stop_gradient((latents, previous)), kept), [denoised]
    (latents, _, kept), denoised = run(carry, slice(split, None))
    if kept is not None:
        return Trajectory(latents, kept[:-1])
    return Trajectory(latents, jnp.concatenate([*early, denoised]) if early else denoised)


def _check_grid(grid: Grid, prediction_type: str, step_fn: StepFn) -> None:
    num_positions = len(grid.timesteps) + 1
    if grid.signal_rates.shape != (num_positions,) or grid.noise_rates.shape != (num_positions,):
        raise ValueError(
            f"grid has rates of shapes {grid.signal_rates.shape} and {grid.noise_rates.shape}, "
            f"expected ({num_positions},): one more than its timesteps"
        )
    if np.any(grid.signal_rates == 0.0) and prediction_type == "epsilon":
        raise ValueError(
            "grid has a signal rate of 0, where epsilon leaves x_0 undefined: expected v_prediction"
        )
    if np.any(grid.signal_rates == 0.0) and step_fn is euler_step:
        raise ValueError(
            "grid has a signal rate of 0, where euler_step has infinite sigma: expected ddim_step"
        )
