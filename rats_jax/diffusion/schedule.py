"""Noise schedules: what a scheduler's configuration says of the diffusion, whatever steps are taken.

Everything but `add_noise` is NumPy in float64: a schedule is a constant of the compiled program.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import chex
import numpy as np

from rats_jax.diffusion.scheduler_config import SchedulerSettings, invalid_value, read_scheduler_config
from rats_jax.types import Array


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
        raise invalid_value("num_train_timesteps", num_train_timesteps, "at least 1")
    if beta_schedule == "squaredcos_cap_v2":
        angles = (np.arange(num_train_timesteps + 1) / num_train_timesteps + 0.008) / 1.008 * np.pi / 2
        alpha_bars = np.cos(angles) ** 2
        betas = np.minimum(1.0 - alpha_bars[1:] / alpha_bars[:-1], 0.999)
    elif beta_schedule in ("linear", "scaled_linear"):
        for field, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
            if not 0.0 < beta < 1.0:
                raise invalid_value(field, beta, "a number in (0, 1)")
        power = 1 if beta_schedule == "linear" else 2
        betas = np.linspace(beta_start ** (1 / power), beta_end ** (1 / power), num_train_timesteps) ** power
    else:
        raise invalid_value("beta_schedule", beta_schedule, "linear, scaled_linear or squaredcos_cap_v2")
    return _accumulate(betas, rescale_betas_zero_snr)


def _accumulate(betas: np.ndarray, rescale_betas_zero_snr: bool) -> np.ndarray:
    alphas_cumprod = np.cumprod(1.0 - betas)
    if not rescale_betas_zero_snr:
        return alphas_cumprod
    first, last = np.sqrt(alphas_cumprod[[0, -1]])
    if first == last:
        raise invalid_value("num_train_timesteps", len(betas), "at least 2 to rescale to zero terminal SNR")
    return ((np.sqrt(alphas_cumprod) - last) * (first / (first - last))) ** 2


def get_alphas_cumprod(scheduler_config: Mapping[str, Any]) -> np.ndarray:
    """Read alphas_cumprod from a diffusion scheduler's configuration.

    Args:
        scheduler_config: a scheduler_config.json of diffusers; absent keys take the defaults of its class.
            `trained_betas` [T], where present, replaces the beta schedule.

    Returns:
        [T] float64 in [0, 1), descending.

    Raises:
        ValueError: as `read_scheduler_config`; a flow configuration, an unknown schedule, or trained_betas
            that are not T numbers in (0, 1].
    """
    return alphas_cumprod_of(read_scheduler_config(scheduler_config))


def alphas_cumprod_of(settings: SchedulerSettings) -> np.ndarray:
    """Compute alphas_cumprod of a diffusion's settings, [T] float64, as `get_alphas_cumprod`."""
    if settings.prediction_type == "flow":
        raise invalid_value("prediction_type", "flow", "a diffusion model: a flow has no alphas_cumprod")
    if settings.trained_betas is not None:
        betas = np.asarray(settings.trained_betas, np.float64)
        if betas.shape != (settings.num_train_timesteps,) or not np.all((betas > 0.0) & (betas <= 1.0)):
            expected = f"num_train_timesteps = {settings.num_train_timesteps} numbers in (0, 1]"
            raise invalid_value("trained_betas", f"an array of shape {betas.shape}", expected)
        return _accumulate(betas, settings.rescale_betas_zero_snr)
    return make_alphas_cumprod(
        beta_schedule=settings.beta_schedule,
        num_train_timesteps=settings.num_train_timesteps,
        beta_start=settings.beta_start,
        beta_end=settings.beta_end,
        rescale_betas_zero_snr=settings.rescale_betas_zero_snr,
    )


def get_prediction_type(scheduler_config: Mapping[str, Any]) -> str:
    """Read what the network predicts from a scheduler's configuration.

    Args:
        scheduler_config: a scheduler_config.json of diffusers; an absent `prediction_type` is `epsilon`, or
            `flow` for a FlowMatchEulerDiscreteScheduler.

    Returns:
        `epsilon`, `v_prediction`, `sample` or `flow`.

    Raises:
        ValueError: as `read_scheduler_config`; or `epsilon` with zero terminal SNR, where the latents are
            pure noise and x_0 cannot be recovered from their noise.
    """
    settings = read_scheduler_config(scheduler_config)
    if settings.prediction_type == "epsilon" and alphas_cumprod_of(settings)[-1] == 0.0:
        raise invalid_value("prediction_type", "epsilon", "v_prediction or sample with zero terminal SNR")
    return settings.prediction_type


def add_noise(denoised: Array, noise: Array, signal_rate: Array | float, noise_rate: Array | float) -> Array:
    """Diffuse clean latents to a noise level.

    x_t = signal_rate * x_0 + noise_rate * noise.

    Args:
        denoised: clean latents x_0, [B, ...] float32.
        noise: standard normal, the same shape.
        signal_rate: scalar or [B, 1, ...] float32 in [0, 1].
        noise_rate: the same shape, in [0, 1].

    Returns:
        Latents, [B, ...] float32, differentiable in every argument.

    Source: Kingma et al., Variational Diffusion Models, arXiv 2107.00630, eq. 1.
    """
    chex.assert_equal_shape([denoised, noise])
    chex.assert_rank([signal_rate, noise_rate], {0, denoised.ndim})
    return signal_rate * denoised + noise_rate * noise
