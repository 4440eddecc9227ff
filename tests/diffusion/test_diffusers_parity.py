"""Full rollouts against the PyTorch schedulers of diffusers, step by step, with a small network.

diffusers computes its schedules in float32, we in float64: results agree to about 1e-4, not to the bit.
"""

from fractions import Fraction

import chex
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)

from rats_jax.diffusion.grid import make_grid, sigmas
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import SAMPLERS, ddim_step, euler_step, second_order
from rats_jax.diffusion.schedule import get_alphas_cumprod
from rats_jax.types import Grid

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NOISE = np.random.default_rng(0).normal(size=(2, 2, 2, 3)).astype(np.float32)
MIXING = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
PREDICTION_TYPES = ["epsilon", "v_prediction", "sample"]
SHAPES = [(2, 5, 3), (2, 2, 2, 3), (2, 2, 2, 2, 3)]  # tokens, pictures, videos


def network(params, latents, timestep, embeds):
    return jnp.tanh(latents @ params) + embeds * jnp.sin(timestep / 100.0)


def network_of_torch(latents, timestep):
    return torch.tanh(latents @ torch.from_numpy(MIXING)) + 0.3 * torch.sin(timestep.float() / 100.0)


def our_rollout(grid, prediction_type, step_fn, noise=NOISE, correction=None):
    """The latents at the end, and the clean estimate of every step."""
    return rollout(
        network,
        jnp.asarray(MIXING),
        jnp.asarray(noise),
        jnp.float32(0.3),
        grid=grid,
        prediction_type=prediction_type,
        step_fn=step_fn,
        gradient_steps=len(grid.timesteps),
        remat="none",
        unroll=False,
        correction=correction,
    )


def rollout_of_diffusers(scheduler, num_steps, *, noise=NOISE, next_timesteps=None, **levels):
    """The latents after every step; `next_timesteps` make DDIM land where the next step is."""
    scheduler.set_timesteps(num_steps, **levels)
    latents, visited = torch.from_numpy(noise) * float(getattr(scheduler, "init_noise_sigma", 1.0)), []
    for i, timestep in enumerate(scheduler.timesteps):
        read = latents
        if hasattr(scheduler, "scale_model_input"):
            read = scheduler.scale_model_input(latents, timestep)
        if next_timesteps is not None:  # it lands on timestep - num_train_timesteps // num_inference_steps
            scheduler.num_inference_steps = Fraction(1000, int(timestep) - next_timesteps[i])
        latents = scheduler.step(network_of_torch(read, timestep), timestep, latents).prev_sample
        visited.append(latents.numpy())
    return np.stack(visited)


def latents_of(grid, trajectory):
    """Ours after every step of DDIM, from the clean estimates: what remains of the latents is noise."""
    latents, visited = NOISE.astype(np.float64), []
    rates = zip(grid.signal_rates, grid.noise_rates, strict=True)
    levels = [(float(a), float(n)) for a, n in rates]
    for (a, n), (next_a, next_n), denoised in zip(levels, levels[1:], trajectory.denoised, strict=False):
        latents = next_a * denoised + next_n * (latents - a * denoised) / n
        visited.append(latents)
    return np.float32(visited)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize(
    "original",
    [
        DDIMScheduler,
        PNDMScheduler,
        LMSDiscreteScheduler,
        EulerDiscreteScheduler,
        DPMSolverMultistepScheduler,
    ],
)
def test_alphas_cumprod(beta_schedule, original):
    config = STABLE_DIFFUSION | {"beta_schedule": beta_schedule}
    expected = original(**config).alphas_cumprod
    ours = get_alphas_cumprod(config | {"_class_name": original.__name__})
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(("set_alpha_to_one", "steps_offset"), [(True, 0), (False, 0), (True, 1), (False, 1)])
def test_ddim_leading(prediction_type, set_alpha_to_one, steps_offset):
    config = STABLE_DIFFUSION | {
        "prediction_type": prediction_type,
        "set_alpha_to_one": set_alpha_to_one,
        "steps_offset": steps_offset,
    }
    grid = make_grid(config, 4)
    scheduler = DDIMScheduler(**config, clip_sample=False)
    expected = rollout_of_diffusers(scheduler, 4)
    np.testing.assert_array_equal(grid.timesteps, scheduler.timesteps)
    trajectory = our_rollout(grid, prediction_type, ddim_step)
    chex.assert_trees_all_close(latents_of(grid, trajectory), expected, rtol=5e-4, atol=5e-4)
    for step_fn in (ddim_step, euler_step):
        actual = our_rollout(grid, prediction_type, step_fn).latents
        chex.assert_trees_all_close(actual, expected[-1], rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_ddim_with_a_step_count_that_does_not_divide(prediction_type):
    """Leading spacing stays on t - 1000 // S for any S, so 7 steps agree as well."""
    config = STABLE_DIFFUSION | {"prediction_type": prediction_type, "steps_offset": 1}
    expected = rollout_of_diffusers(DDIMScheduler(**config, clip_sample=False), 7)
    actual = our_rollout(make_grid(config, 7), prediction_type, ddim_step).latents
    chex.assert_trees_all_close(actual, expected[-1], rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("num_steps", [5, 8])
def test_ddim_trailing(prediction_type, set_alpha_to_one, num_steps):
    config = STABLE_DIFFUSION | {
        "prediction_type": prediction_type,
        "set_alpha_to_one": set_alpha_to_one,
        "timestep_spacing": "trailing",
    }
    grid = make_grid(config, num_steps)
    scheduler = DDIMScheduler(**config, clip_sample=False)
    expected = rollout_of_diffusers(scheduler, num_steps)
    np.testing.assert_array_equal(grid.timesteps, scheduler.timesteps)
    trajectory = our_rollout(grid, prediction_type, ddim_step)
    chex.assert_trees_all_close(trajectory.latents, expected[-1], rtol=5e-4, atol=5e-4)
    chex.assert_trees_all_close(latents_of(grid, trajectory), expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("timestep_spacing", "num_steps"), [("trailing", 3), ("trailing", 7), ("linspace", 4)]
)
def test_ddim_where_diffusers_lands_between_two_timesteps(prediction_type, timestep_spacing, num_steps):
    """It lands on t - 1000 // S, which is not the next timestep: told to land there, it agrees."""
    config = STABLE_DIFFUSION | {"prediction_type": prediction_type, "timestep_spacing": timestep_spacing}
    grid = make_grid(config, num_steps)
    landed = [*grid.timesteps[1:].tolist(), -1]
    scheduler = DDIMScheduler(**config, clip_sample=False)
    expected = rollout_of_diffusers(scheduler, num_steps, next_timesteps=landed)
    np.testing.assert_array_equal(grid.timesteps, scheduler.timesteps)
    trajectory = our_rollout(grid, prediction_type, ddim_step)
    chex.assert_trees_all_close(latents_of(grid, trajectory), expected, rtol=5e-4, atol=5e-4)
    untold = rollout_of_diffusers(DDIMScheduler(**config, clip_sample=False), num_steps)
    assert np.abs(untold - expected).max() > 1e-4


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_ddim_from_pure_noise(prediction_type):
    config = STABLE_DIFFUSION | {
        "prediction_type": prediction_type,
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
    }
    expected = rollout_of_diffusers(DDIMScheduler(**config, clip_sample=False), 4)
    grid = make_grid(config, 4)
    assert grid.signal_rates[0] == 0
    trajectory = our_rollout(grid, prediction_type, ddim_step)
    chex.assert_trees_all_close(trajectory.latents, expected[-1], rtol=5e-4, atol=5e-4)
    chex.assert_trees_all_close(latents_of(grid, trajectory), expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_any_rank_is_sampled_alike(shape, sampler):
    noise = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    config = STABLE_DIFFUSION | {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    expected = rollout_of_diffusers(DDIMScheduler(**config, clip_sample=False), 5, noise=noise)
    actual = our_rollout(make_grid(config, 5), "v_prediction", SAMPLERS[sampler].step, noise).latents
    chex.assert_trees_all_close(actual, expected[-1], rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
def test_euler_leading(prediction_type, final_sigmas_type):
    """diffusers keeps x = latents / signal_rate here and starts at noise * sqrt(sigma^2 + 1), our noise."""
    config = STABLE_DIFFUSION | {
        "prediction_type": prediction_type,
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "final_sigmas_type": final_sigmas_type,
    }
    scheduler = EulerDiscreteScheduler(**config)
    exploding = rollout_of_diffusers(scheduler, 5)
    grid = make_grid(config | {"_class_name": "EulerDiscreteScheduler"}, 5)
    np.testing.assert_array_equal(grid.timesteps, scheduler.timesteps)
    np.testing.assert_allclose(sigmas(grid), scheduler.sigmas, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(scheduler.init_noise_sigma * grid.signal_rates[0], 1, rtol=1e-5)
    expected = exploding * grid.signal_rates[1:, None, None, None, None]
    trajectory = our_rollout(grid, prediction_type, euler_step)
    chex.assert_trees_all_close(latents_of(grid, trajectory), expected, rtol=5e-4, atol=5e-4)
    for step_fn in (ddim_step, euler_step):
        actual = our_rollout(grid, prediction_type, step_fn).latents
        chex.assert_trees_all_close(actual, expected[-1], rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("timestep_spacing", ["linspace", "trailing"])
def test_euler_that_starts_at_its_largest_sigma(prediction_type, timestep_spacing):
    """Here diffusers starts at noise * sigma, and with linspace visits timesteps between the integers.

    Our linspace rounds, as DDIM does. So the grid is built from the scheduler's own sigmas, and the start is
    noise * noise_rate: what is compared is the step and the coordinates, not the spacing.
    """
    config = STABLE_DIFFUSION | {"prediction_type": prediction_type, "timestep_spacing": timestep_spacing}
    scheduler = EulerDiscreteScheduler(**config)
    exploding = rollout_of_diffusers(scheduler, 5)
    sigma = scheduler.sigmas.double().numpy()
    grid = Grid(
        timesteps=scheduler.timesteps.numpy(),
        signal_rates=(1 / np.sqrt(1 + sigma**2)).astype(np.float32),
        noise_rates=(sigma / np.sqrt(1 + sigma**2)).astype(np.float32),
    )
    np.testing.assert_allclose(sigmas(grid), sigma, rtol=1e-5)
    actual = our_rollout(grid, prediction_type, euler_step, NOISE * grid.noise_rates[0]).latents
    chex.assert_trees_all_close(actual, exploding[-1], rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("timestep_spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("num_steps", [4, 16])
def test_dpm_solver_of_second_order(prediction_type, timestep_spacing, num_steps):
    """The first step is of first order, and the last, which lands on data, in both."""
    config = STABLE_DIFFUSION | {"prediction_type": prediction_type, "timestep_spacing": timestep_spacing}
    scheduler = DPMSolverMultistepScheduler(**config, solver_order=2, algorithm_type="dpmsolver++")
    expected = rollout_of_diffusers(scheduler, num_steps)
    grid = make_grid(config | {"_class_name": "DPMSolverMultistepScheduler"}, num_steps)
    np.testing.assert_array_equal(grid.timesteps, scheduler.timesteps)
    step, correction = SAMPLERS["dpmpp_2m"]
    actual = our_rollout(grid, prediction_type, step, correction=correction(grid)).latents
    chex.assert_trees_all_close(actual, expected[-1], rtol=1e-3, atol=1e-3)
    first = our_rollout(grid, prediction_type, ddim_step).latents
    assert np.abs(first - expected[-1]).max() > 0.01  # or the correction would not have been seen


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_dpm_solver_that_lands_on_the_cleanest_level(prediction_type):
    """Of 15 steps or more its last is of second order too, where it does not land on data."""
    config = STABLE_DIFFUSION | {"prediction_type": prediction_type, "final_sigmas_type": "sigma_min"}
    scheduler = DPMSolverMultistepScheduler(**config, solver_order=2, algorithm_type="dpmsolver++")
    expected = rollout_of_diffusers(scheduler, 16)
    grid = make_grid(config | {"_class_name": "DPMSolverMultistepScheduler"}, 16)
    weights = second_order(grid)
    assert weights[-1] > 0
    actual = our_rollout(grid, prediction_type, ddim_step, correction=weights).latents
    chex.assert_trees_all_close(actual, expected[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 4, 28])
@pytest.mark.parametrize("shape", SHAPES)
def test_flow_matching(shift, num_steps, shape):
    noise = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    levels = np.linspace(1.0, 1.0 / num_steps, num_steps)
    expected = rollout_of_diffusers(scheduler, num_steps, noise=noise, sigmas=levels)
    grid = make_grid({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift}, num_steps)
    np.testing.assert_allclose(grid.timesteps, scheduler.timesteps, rtol=1e-6)
    np.testing.assert_allclose(grid.noise_rates, scheduler.sigmas, rtol=1e-6)
    trajectory = our_rollout(grid, "flow", ddim_step, noise)
    chex.assert_trees_all_close(trajectory.latents, expected[-1], rtol=5e-4, atol=5e-4)
    before = np.stack([noise, *expected[:-1]])  # x_0 = x - sigma * velocity at every step
    velocity = [
        network_of_torch(torch.from_numpy(x), t).numpy()
        for x, t in zip(before, scheduler.timesteps, strict=True)
    ]
    levels = grid.noise_rates[:-1].reshape(-1, *(1,) * noise.ndim)
    chex.assert_trees_all_close(trajectory.denoised, before - levels * velocity, rtol=1e-3, atol=1e-3)
