"""Grids: the noise levels and timesteps that a sampler visits, from a scheduler's configuration.

All is NumPy in float64: a grid is a constant of the compiled program, so it is computed once on the host and
rounded to float32 only where it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import chex
import numpy as np

from rats_jax.diffusion.schedule import alphas_cumprod_of
from rats_jax.diffusion.scheduler_config import SchedulerSettings, invalid_value, read_scheduler_config
from rats_jax.types import Grid

# The flow sigmas of UniPC stay this far below pure noise.
_MAX_FLOW_SIGMA = 1.0 - 1e-6


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
    _check_num_steps(num_steps, num_train_timesteps)
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


def make_consistency_timesteps(
    num_steps: int, *, num_train_timesteps: int, original_inference_steps: int
) -> np.ndarray:
    """Choose timesteps among those at which a consistency model was distilled, as the LCMScheduler does.

    The N of distillation are j * (T // N) - 1 for j = N .. 1; those at floor(i * N / S) are visited.

    Args:
        num_steps: S, from 1 to N.
        num_train_timesteps: T.
        original_inference_steps: N, at most T.

    Returns:
        [S] int32 in [0, T - 1], strictly descending.

    Raises:
        ValueError: num_steps or original_inference_steps out of range.

    Source: Luo et al., Latent Consistency Models, arXiv 2310.04378, section 4.3 (skipping-step).
    """
    total = original_inference_steps
    if not 1 <= total <= num_train_timesteps:
        expected = f"from 1 to num_train_timesteps = {num_train_timesteps}"
        raise invalid_value("original_inference_steps", total, expected)
    if not 1 <= num_steps <= total:
        raise invalid_value("num_steps", num_steps, f"from 1 to original_inference_steps = {total}")
    distilled = np.arange(total, 0, -1) * (num_train_timesteps // total) - 1
    visited = np.floor(np.linspace(0, total, num_steps, endpoint=False)).astype(np.int64)
    return distilled[visited].astype(np.int32)


def _check_num_steps(num_steps: int, num_train_timesteps: int) -> None:
    if not 1 <= num_steps <= num_train_timesteps:
        raise invalid_value("num_steps", num_steps, f"from 1 to num_train_timesteps = {num_train_timesteps}")


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
    """Lay out the noise levels of a rectified flow, as the pipelines of FLUX do.

    sigma_i = shifted(1 - i / S), then 0; shifted(u) = shift * u / (1 + (shift - 1) * u). The grid of S
    steps is part of that of a multiple of S steps. signal_rate = 1 - sigma, noise_rate = sigma, and the
    network is told sigma * T. A FlowMatchEulerDiscreteScheduler that is given a number of steps alone
    shifts the lower end twice, so that the last of a few steps does next to nothing; given these 1 - i / S
    as `sigmas`, it is this grid.

    Args:
        num_steps: S, from 1 to T.
        num_train_timesteps: T, the unit of the network's timestep.
        shift: towards noise, positive; 1 is none.

    Returns:
        A Grid of S steps from pure noise to data; its timesteps are float32.

    Raises:
        ValueError: num_steps or shift out of range.

    Source: Esser et al., Scaling Rectified Flow Transformers, arXiv 2403.03206, eq. 23; FluxPipeline of
        diffusers.
    """
    _check_num_steps(num_steps, num_train_timesteps)
    levels = shifted(np.arange(num_steps, -1, -1) / num_steps, shift)
    return Grid(
        timesteps=(levels[:-1] * num_train_timesteps).astype(np.float32),
        signal_rates=(1.0 - levels).astype(np.float32),
        noise_rates=levels.astype(np.float32),
    )


def make_solver_flow_grid(
    num_steps: int, *, num_train_timesteps: int, shift: float, first: float, last: float
) -> Grid:
    """Lay out the noise levels of a rectified flow, as the solvers of diffusers with `use_flow_sigmas`.

    sigma_i = shifted(u_i) of `make_flow_grid`, with u the first S of S + 1 on a line from first to last, then
    0; no sigma is above 1 - 1e-6. signal_rate = 1 - sigma, noise_rate = sigma; the network is told
    floor(sigma * T).

    Args:
        num_steps: S, from 1 to T.
        num_train_timesteps: T, the unit of the network's timestep.
        shift: static shift towards noise, positive; 1 is none.
        first: where the line starts, in (0, 1]: 1 for UniPC, 1 - 1 / T for DPM-Solver.
        last: where it ends, in [0, first): 1 / T for UniPC, 0 for DPM-Solver.

    Returns:
        A Grid of S steps to data; its timesteps are whole numbers in float32.

    Raises:
        ValueError: num_steps or shift out of range.

    Source: UniPCMultistepScheduler and DPMSolverMultistepScheduler of diffusers, set_timesteps.
    """
    _check_num_steps(num_steps, num_train_timesteps)
    visited = shifted(np.linspace(first, last, num_steps + 1)[:-1], shift)
    levels = np.append(np.minimum(visited, _MAX_FLOW_SIGMA), 0.0)
    return Grid(
        timesteps=np.floor(levels[:-1] * num_train_timesteps).astype(np.float32),
        signal_rates=(1.0 - levels).astype(np.float32),
        noise_rates=levels.astype(np.float32),
    )


def shifted(level: Any, shift: float) -> Any:
    """Move noise levels in [0, 1] towards noise as `make_flow_grid` does; ValueError for a shift up to 0."""
    if not shift > 0.0:
        raise invalid_value("shift", shift, "a positive number")
    return shift * level / (1.0 + (shift - 1.0) * level)


def flow_shift(
    num_tokens: int,
    *,
    base_shift: float,
    max_shift: float,
    base_image_seq_len: int,
    max_image_seq_len: int,
    time_shift_type: str,
) -> float:
    """Compute the shift towards noise of a flow whose shift grows with the size of the picture.

    mu is linear in the tokens, base_shift at base_image_seq_len and max_shift at max_image_seq_len.
    `exponential`: shift = exp(mu), `linear`: shift = mu, since mu / (mu + 1 / sigma - 1) is the shift of
    `make_flow_grid` by mu.

    Args:
        num_tokens: of one picture, as the network sees it; beyond both ends the line goes on.
        base_shift: mu of the smaller picture.
        max_shift: mu of the larger one.
        base_image_seq_len: tokens of the smaller picture.
        max_image_seq_len: tokens of the larger one, another number.
        time_shift_type: `exponential` or `linear`.

    Returns:
        A positive number, the `shift` of a flow grid.

    Raises:
        ValueError: unknown time_shift_type, two equal sizes, or a linear shift that is not positive.

    Source: calculate_shift of the FLUX pipeline of diffusers; Esser et al., arXiv 2403.03206, section 5.3.2.
    """
    if time_shift_type not in ("exponential", "linear"):
        raise invalid_value("time_shift_type", time_shift_type, "exponential or linear")
    if base_image_seq_len == max_image_seq_len:
        raise invalid_value("max_image_seq_len", max_image_seq_len, "another number than base_image_seq_len")
    share = (num_tokens - base_image_seq_len) / (max_image_seq_len - base_image_seq_len)
    mu = base_shift + share * (max_shift - base_shift)
    if time_shift_type == "exponential":
        return float(np.exp(mu))
    if not mu > 0.0:
        raise invalid_value("time_shift_type", time_shift_type, f"exponential: mu = {mu} is not positive")
    return mu


def make_grid(scheduler_config: Mapping[str, Any], num_steps: int, *, num_tokens: int = 0) -> Grid:
    """Build the Grid of a model from its scheduler's configuration, at the timesteps of that scheduler.

    Every field is computed as its class means it, or refused: see `read_scheduler_config`. Timesteps are
    those of diffusers, save that `linspace` of Euler, LMS, Heun and KDPM2, which lies between the integers,
    is rounded as DDIM rounds it: by at most one half, to a level that the network was trained at. The steps
    from one to the next are our own. A flow configuration gives a flow grid; that of a
    FlowMatchEulerDiscreteScheduler is `make_flow_grid`.

    Args:
        scheduler_config: a scheduler_config.json of diffusers, as a dictionary.
        num_tokens: of one picture, for a flow whose shift grows with it.
        num_steps: S, from 1 to num_train_timesteps; where a class places S + 1 timesteps and leaves out the
            last, one less; of a consistency model, to original_inference_steps.

    Returns:
        A Grid of S steps.

    Raises:
        ValueError: a class, field or value that is not computed here, naming it and what is expected;
            num_steps out of range.
    """
    settings = read_scheduler_config(scheduler_config)
    if settings.prediction_type == "flow":
        return _flow_grid(settings, num_steps, num_tokens)
    alphas_cumprod = alphas_cumprod_of(settings)
    return make_diffusion_grid(
        alphas_cumprod,
        _place_timesteps(settings, num_steps),
        final_alpha_cumprod=1.0 if settings.lands_on_data else float(alphas_cumprod[0]),
    )


def _flow_grid(settings: SchedulerSettings, num_steps: int, num_tokens: int) -> Grid:
    total, shift = settings.num_train_timesteps, settings.shift
    if settings.dynamic_shift is not None:
        if num_tokens < 1:
            raise invalid_value(
                "use_dynamic_shifting", True, "false in a pipeline whose pictures have no tokens"
            )
        shift = flow_shift(num_tokens, **settings.dynamic_shift)
    if settings.placement == "match":
        return make_flow_grid(num_steps, num_train_timesteps=total, shift=shift)
    first, last = {"unipc": (1.0, 1.0 / total), "dpm": (1.0 - 1.0 / total, 0.0)}[settings.placement]
    return make_solver_flow_grid(num_steps, num_train_timesteps=total, shift=shift, first=first, last=last)


def _place_timesteps(settings: SchedulerSettings, num_steps: int) -> np.ndarray:
    total, spacing = settings.num_train_timesteps, settings.timestep_spacing
    if settings.placement == "consistency":
        return make_consistency_timesteps(
            num_steps,
            num_train_timesteps=total,
            original_inference_steps=settings.original_inference_steps,
        )
    # DPM-Solver and its kin place S + 1 timesteps and leave out the last, where they would only arrive.
    left_out = int(settings.placement == "without_last" and spacing != "trailing")
    if not 1 <= num_steps <= total - left_out:
        named = "num_train_timesteps - 1" if left_out else "num_train_timesteps"
        raise invalid_value("num_steps", num_steps, f"from 1 to {named} = {total - left_out}")
    timesteps = make_timesteps(
        num_steps + left_out,
        num_train_timesteps=total,
        timestep_spacing=spacing,
        steps_offset=settings.steps_offset,
    )
    return timesteps[:num_steps]


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
