"""Noise schedules: from a scheduler's configuration to the Grid of noise levels that a sampler visits.

Everything but `add_noise` is NumPy in float64: a grid is a constant of the compiled program, so it is
computed once on the host and rounded to float32 only where it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import chex
import numpy as np

from rats_jax.diffusion.prediction import PREDICTION_TYPES
from rats_jax.types import Array, Grid

FLOW_CLASS = "FlowMatchEulerDiscreteScheduler"
# Options that change the grid or the step and are not implemented: only false, null or absent is accepted.
_UNSUPPORTED = (
    *("clip_sample", "thresholding", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
    *("use_lu_lambdas", "use_dynamic_shifting", "invert_sigmas", "shift_terminal", "stochastic_sampling"),
)


def _invalid(field: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{field} is {value!r}, expected {expected}")


def make_alphas_cumprod(
    *,
    beta_schedule: str,
    num_train_timesteps: int,
    beta_start: float,
    beta_end: float,
    rescale_betas_zero_snr: bool,
) -> np.ndarray:
    """Compute the cumulative signal power of a variance-preserving diffusion.

    abar_t = prod_{s <= t} (1 - beta_s), with beta linear in t (`linear`), the square of a line
    (`scaled_linear`), or given by abar(u) = cos((u + 0.008) / 1.008 * pi / 2)^2 (`squaredcos_cap_v2`).

    Args:
        beta_schedule: `linear`, `scaled_linear` or `squaredcos_cap_v2`.
        num_train_timesteps: T, at least 1.
        beta_start: beta_0, in (0, 1); not read by `squaredcos_cap_v2`.
        beta_end: beta_{T-1}, in (0, 1); not read by `squaredcos_cap_v2`.
        rescale_betas_zero_snr: shift and scale sqrt(abar) so that its last value is exactly 0.

    Returns:
        [T] float64 in [0, 1), descending: alphas_cumprod.

    Raises:
        ValueError: unknown beta_schedule, or a number outside its range.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, arXiv 2006.11239, section 2; Nichol and
        Dhariwal, Improved DDPM, arXiv 2102.09672, eq. 17; Lin et al., Common Diffusion Noise Schedules and
        Sample Steps are Flawed, arXiv 2305.08891, algorithm 1.
    """
    if num_train_timesteps < 1:
        raise _invalid("num_train_timesteps", num_train_timesteps, "at least 1")
    if beta_schedule == "squaredcos_cap_v2":
        angles = (np.arange(num_train_timesteps + 1) / num_train_timesteps + 0.008) / 1.008 * np.pi / 2
        alpha_bars = np.cos(angles) ** 2
        betas = np.minimum(1.0 - alpha_bars[1:] / alpha_bars[:-1], 0.999)
    elif beta_schedule in ("linear", "scaled_linear"):
        for field, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
            if not 0.0 < beta < 1.0:
                raise _invalid(field, beta, "a number in (0, 1)")
        power = 1 if beta_schedule == "linear" else 2
        betas = np.linspace(beta_start ** (1 / power), beta_end ** (1 / power), num_train_timesteps) ** power
    else:
        raise _invalid("beta_schedule", beta_schedule, "linear, scaled_linear or squaredcos_cap_v2")
    return _accumulate(betas, rescale_betas_zero_snr)


def _accumulate(betas: np.ndarray, rescale_betas_zero_snr: bool) -> np.ndarray:
    alphas_cumprod = np.cumprod(1.0 - betas)
    if not rescale_betas_zero_snr:
        return alphas_cumprod
    first, last = np.sqrt(alphas_cumprod[[0, -1]])
    if first == last:
        raise _invalid("num_train_timesteps", len(betas), "at least 2 to rescale to zero terminal SNR")
    return ((np.sqrt(alphas_cumprod) - last) * (first / (first - last))) ** 2


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
        raise _invalid("num_steps", num_steps, f"from 1 to num_train_timesteps = {num_train_timesteps}")
    if timestep_spacing == "leading":
        timesteps = np.arange(num_steps)[::-1] * (num_train_timesteps // num_steps) + steps_offset
    elif timestep_spacing == "linspace":
        timesteps = np.linspace(0, num_train_timesteps - 1, num_steps).round()[::-1]
    elif timestep_spacing == "trailing":
        # arange in floating point can return one value too many; the grid has S.
        spaced = np.arange(num_train_timesteps, 0, -num_train_timesteps / num_steps)[:num_steps]
        timesteps = spaced.round() - 1
    else:
        raise _invalid("timestep_spacing", timestep_spacing, "leading, linspace or trailing")
    if steps_offset < 0 or timesteps[0] >= num_train_timesteps:
        expected = f"not negative, with every timestep at most {num_train_timesteps - 1}"
        raise _invalid("steps_offset", steps_offset, expected)
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
        raise _invalid("timesteps", timesteps.tolist(), expected)
    if not 0.0 < final_alpha_cumprod <= 1.0:
        raise _invalid("final_alpha_cumprod", final_alpha_cumprod, "a number in (0, 1]")
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
        raise _invalid("num_steps", num_steps, f"from 1 to num_train_timesteps = {num_train_timesteps}")
    if not shift > 0.0:
        raise _invalid("shift", shift, "a positive number")

    def shifted(level: Any) -> Any:
        return shift * level / (1.0 + (shift - 1.0) * level)

    levels = np.append(shifted(np.linspace(1.0, shifted(1.0 / num_train_timesteps), num_steps)), 0.0)
    return Grid(
        timesteps=(levels[:-1] * num_train_timesteps).astype(np.float32),
        signal_rates=(1.0 - levels).astype(np.float32),
        noise_rates=levels.astype(np.float32),
    )


def _is_flow(scheduler_config: Mapping[str, Any]) -> bool:
    return (
        FLOW_CLASS == scheduler_config.get("_class_name") or scheduler_config.get("prediction_type") == "flow"
    )


def get_alphas_cumprod(scheduler_config: Mapping[str, Any]) -> np.ndarray:
    """Read alphas_cumprod from a diffusion scheduler's configuration.

    Args:
        scheduler_config: a scheduler_config.json of diffusers; absent keys take the defaults of
            DDIMScheduler. `trained_betas` [T], where present, replaces the beta schedule.

    Returns:
        [T] float64 in [0, 1), descending.

    Raises:
        ValueError: a flow configuration, an unknown schedule, or trained_betas that are not T numbers
            in (0, 1].
    """
    if _is_flow(scheduler_config):
        raise _invalid("prediction_type", "flow", "a diffusion model: a flow has no alphas_cumprod")
    num_train_timesteps = scheduler_config.get("num_train_timesteps", 1000)
    rescale_betas_zero_snr = scheduler_config.get("rescale_betas_zero_snr", False)
    if scheduler_config.get("trained_betas") is not None:
        betas = np.asarray(scheduler_config["trained_betas"], np.float64)
        if betas.shape != (num_train_timesteps,) or not np.all((betas > 0.0) & (betas <= 1.0)):
            expected = f"num_train_timesteps = {num_train_timesteps} numbers in (0, 1]"
            raise _invalid("trained_betas", f"an array of shape {betas.shape}", expected)
        return _accumulate(betas, rescale_betas_zero_snr)
    return make_alphas_cumprod(
        beta_schedule=scheduler_config.get("beta_schedule", "linear"),
        num_train_timesteps=num_train_timesteps,
        beta_start=scheduler_config.get("beta_start", 0.0001),
        beta_end=scheduler_config.get("beta_end", 0.02),
        rescale_betas_zero_snr=rescale_betas_zero_snr,
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
            raise _invalid(field, scheduler_config[field], "false or absent: it is not supported")
    num_train_timesteps = scheduler_config.get("num_train_timesteps", 1000)
    if _is_flow(scheduler_config):
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


def get_prediction_type(scheduler_config: Mapping[str, Any]) -> str:
    """Read what the network predicts from a scheduler's configuration.

    Args:
        scheduler_config: a scheduler_config.json of diffusers; an absent `prediction_type` is `epsilon`, or
            `flow` for a FlowMatchEulerDiscreteScheduler.

    Returns:
        `epsilon`, `v_prediction`, `sample` or `flow`.

    Raises:
        ValueError: any other value; or `epsilon` with zero terminal SNR, where the latents are pure noise
            and x_0 cannot be recovered from their noise.
    """
    if _is_flow(scheduler_config):
        return "flow"
    prediction_type = scheduler_config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise _invalid("prediction_type", prediction_type, f"one of {', '.join(PREDICTION_TYPES)}")
    if prediction_type == "epsilon" and get_alphas_cumprod(scheduler_config)[-1] == 0.0:
        raise _invalid("prediction_type", prediction_type, "v_prediction or sample with zero terminal SNR")
    return prediction_type


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


def add_noise(denoised: Array, noise: Array, signal_rate: Array | float, noise_rate: Array | float) -> Array:
    """Diffuse clean latents to a noise level.

    x_t = signal_rate * x_0 + noise_rate * noise.

    Args:
        denoised: clean latents x_0, [B, H, W, C] float32.
        noise: standard normal, the same shape.
        signal_rate: scalar or [B, 1, 1, 1] float32 in [0, 1].
        noise_rate: the same shape, in [0, 1].

    Returns:
        Latents, [B, H, W, C] float32, differentiable in every argument.

    Source: Kingma et al., Variational Diffusion Models, arXiv 2107.00630, eq. 1.
    """
    chex.assert_equal_shape([denoised, noise])
    chex.assert_rank([signal_rate, noise_rate], {0, denoised.ndim})
    return signal_rate * denoised + noise_rate * noise
