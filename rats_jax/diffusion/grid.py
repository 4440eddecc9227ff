"""Grids: the noise levels and timesteps that a sampler visits, from a scheduler's configuration.

All is NumPy in float64: a grid is a constant of the compiled program, so it is computed once on the host and
rounded to float32 only where it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import chex
import numpy as np

from rats_jax.diffusion.schedule import get_alphas_cumprod, invalid_value, is_flow
from rats_jax.types import Grid

# Options that change the grid or the step and are not implemented: only false, null or absent is accepted.
_UNSUPPORTED = (
    *("clip_sample", "thresholding", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
    *("use_lu_lambdas", "use_dynamic_shifting", "invert_sigmas", "shift_terminal", "stochastic_sampling"),
)


def make_timesteps(
    num_steps: int, *, num_train_timesteps: int, timestep_spacing: str, steps_offset: int
) -> np.ndarray:
    """Choose the timesteps at which the network is evaluated, exactly as the DDIMScheduler of diffusers.

    leading: i * (T // S) + steps_offset;  linspace: round(i * (T - 1) / (S - 1)), both from the
    largest down;  trailing: round(T - i * T / S) - 1. Only `trailing` starts at T - 1 for every S; with a
    few steps `leading` starts at a level whose latents the network never saw as pure noise, and with one
    step both others visit nothing but the cleanest level.

    Args:
        num_steps: S, from 1 to T.
        num_train_timesteps: T.
        timestep_spacing: `leading`, `linspace` or `trailing`.
        steps_offset: added to every `leading` timestep, not negative; the other spacings do not read it.

    Returns:
        [S] int32 in [0, T - 1], strictly descending.

    Raises:
        ValueError: num_steps out of range, unknown timestep_spacing, or an offset that leaves [0, T - 1].

    Source: Lin et al., arXiv 2305.08891, table 2.
    """
    if not 1 <= num_steps <= num_train_timesteps:
        raise invalid_value("num_steps", num_steps, f"from 1 to num_train_timesteps = {num_train_timesteps}")
    if timestep_spacing == "leading":
        timesteps = np.arange(num_steps)[::-1] * (num_train_timesteps // num_steps) + steps_offset
    elif timestep_spacing == "linspace":
        timesteps = np.linspace(0, num_train_timesteps - 1, num_steps).round()[::-1]
    elif timestep_spacing == "trailing":
        # arange in floating point can return one value too many; the grid has S.
        spaced = np.arange(num_train_timesteps, 0, -num_train_timesteps / num_steps)[:num_steps]
        timesteps = spaced.round() - 1
    else:
        raise invalid_value("timestep_spacing", timestep_spacing, "leading, linspace or trailing")
    if steps_offset < 0 or timesteps[0] >= num_train_timesteps:
        expected = f"not negative, with every timestep at most {num_train_timesteps - 1}"
        raise invalid_value("steps_offset", steps_offset, expected)
    return timesteps.astype(np.int32)


def make_diffusion_grid(
    alphas_cumprod: np.ndarray, timesteps: np.ndarray, *, final_alpha_cumprod: float
) -> Grid:
    """Lay out the noise levels of a variance-preserving diffusion: each step lands on the next timestep.

    signal_rate = sqrt(abar_t), noise_rate = sqrt(1 - abar_t) at every timestep, then at final_alpha_cumprod.
    diffusers lands on t - T // S instead, which differs from the next timestep by one when S does not divide
    T, and by more with `linspace`; here the network is always told the level that the latents have.

    Args:
        alphas_cumprod: [T] in [0, 1], abar_t.
        timesteps: [S] integers in [0, T - 1], strictly descending.
        final_alpha_cumprod: abar on which the last step lands, in (0, 1]; 1 is fully denoised.

    Returns:
        A Grid of S steps.

    Raises:
        ValueError: timesteps out of range or not descending, or final_alpha_cumprod outside (0, 1].

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, section 4.2.
    """
    chex.assert_rank([alphas_cumprod, timesteps], 1)
    timesteps = np.asarray(timesteps)
    if timesteps.min() < 0 or timesteps.max() >= len(alphas_cumprod) or np.any(np.diff(timesteps) >= 0):
        expected = f"strictly descending integers in [0, {len(alphas_cumprod) - 1}]"
        raise invalid_value("timesteps", timesteps.tolist(), expected)
    if not 0.0 < final_alpha_cumprod <= 1.0:
        raise invalid_value("final_alpha_cumprod", final_alpha_cumprod, "a number in (0, 1]")
    visited = np.append(np.asarray(alphas_cumprod, np.float64)[timesteps], final_alpha_cumprod)
    return Grid(
        timesteps=timesteps.astype(np.int32),
        signal_rates=np.sqrt(visited).astype(np.float32),
        noise_rates=np.sqrt(1.0 - visited).astype(np.float32),
    )


def make_flow_grid(num_steps: int, *, num_train_timesteps: int, shift: float) -> Grid:
    """Lay out the noise levels of a rectified flow, as the FlowMatchEulerDiscreteScheduler of diffusers.

    shifted(u) = shift * u / (1 + (shift - 1) * u); sigma_i = shifted(u_i) with u_i on a line from 1 to
    shifted(1 / T), then 0. The lower end is therefore shifted twice, as pipelines of diffusers do it.
    signal_rate = 1 - sigma, noise_rate = sigma, and the network is told sigma * T.

    Args:
        num_steps: S, from 1 to T.
        num_train_timesteps: T, the unit of the network's timestep.
        shift: static shift towards noise, positive; 1 is none.

    Returns:
        A Grid of S steps from pure noise to data; its timesteps are float32.

    Raises:
        ValueError: num_steps or shift out of range.

    Source: Esser et al., Scaling Rectified Flow Transformers, arXiv 2403.03206, eq. 23.
    """
    if not 1 <= num_steps <= num_train_timesteps:
        raise invalid_value("num_steps", num_steps, f"from 1 to num_train_timesteps = {num_train_timesteps}")
    if not shift > 0.0:
        raise invalid_value("shift", shift, "a positive number")

    def shifted(level: Any) -> Any:
        return shift * level / (1.0 + (shift - 1.0) * level)

    levels = np.append(shifted(np.linspace(1.0, shifted(1.0 / num_train_timesteps), num_steps)), 0.0)
    return Grid(
        timesteps=(levels[:-1] * num_train_timesteps).astype(np.float32),
        signal_rates=(1.0 - levels).astype(np.float32),
        noise_rates=levels.astype(np.float32),
    )


def make_grid(scheduler_config: Mapping[str, Any], num_steps: int) -> Grid:
    """Build the Grid of a model from its scheduler's configuration, whatever solver that names.

    As `DDIMScheduler.from_config` of diffusers (absent keys take its defaults), with one exception: an
    absent `clip_sample` means no clipping, since latents are never clipped here. A flow configuration
    (`_class_name` FlowMatchEulerDiscreteScheduler, or prediction_type `flow`) gives a flow grid.

    Args:
        scheduler_config: a scheduler_config.json of diffusers, as a dictionary.
        num_steps: S, from 1 to num_train_timesteps.

    Returns:
        A Grid of S steps.

    Raises:
        ValueError: an unsupported option, naming field, value and what is expected; num_steps out of range.
    """
    for field in _UNSUPPORTED:
        if scheduler_config.get(field):
            raise invalid_value(field, scheduler_config[field], "false or absent: it is not supported")
    num_train_timesteps = scheduler_config.get("num_train_timesteps", 1000)
    if is_flow(scheduler_config):
        return make_flow_grid(
            num_steps, num_train_timesteps=num_train_timesteps, shift=scheduler_config.get("shift", 1.0)
        )
    alphas_cumprod = get_alphas_cumprod(scheduler_config)
    timesteps = make_timesteps(
        num_steps,
        num_train_timesteps=num_train_timesteps,
        timestep_spacing=scheduler_config.get("timestep_spacing", "leading"),
        steps_offset=scheduler_config.get("steps_offset", 0),
    )
    set_alpha_to_one = scheduler_config.get("set_alpha_to_one", True)
    final_alpha_cumprod = 1.0 if set_alpha_to_one else float(alphas_cumprod[0])
    return make_diffusion_grid(alphas_cumprod, timesteps, final_alpha_cumprod=final_alpha_cumprod)


def sigmas(grid: Grid) -> np.ndarray:
    """Compute sigma = noise_rate / signal_rate at every position of a grid.

    It is the one measure of noise that diffusions and flows share, so it orders and aligns horizons.

    Args:
        grid: a Grid of S steps.

    Returns:
        [S + 1] float64 in [0, inf]: inf where the signal rate is 0, 0 where the noise rate is.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models,
        arXiv 2206.00364, table 1.
    """
    chex.assert_equal_shape([grid.signal_rates, grid.noise_rates])
    with np.errstate(divide="ignore"):
        return grid.noise_rates.astype(np.float64) / grid.signal_rates.astype(np.float64)
