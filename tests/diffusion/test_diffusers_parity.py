"""Full rollouts against the Flax schedulers of diffusers, with a small deterministic network.

diffusers computes its schedules in float32, we in float64: results agree to about 1e-4, not to the bit.
"""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.diffusion.grid import make_grid, sigmas
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import ddim_step, euler_step, second_order
from rats_jax.diffusion.schedule import get_alphas_cumprod
from rats_jax.types import Grid

flax_ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim_flax")
flax_dpm = pytest.importorskip("diffusers.schedulers.scheduling_dpmsolver_multistep_flax")
flax_euler = pytest.importorskip("diffusers.schedulers.scheduling_euler_discrete_flax")

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NOISE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 2, 3)), jnp.float32)
MIXING = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), jnp.float32)


def network(params, latents, timestep, embeds):
    return jnp.tanh(latents @ params) + embeds * jnp.sin(timestep / 100.0)


def our_rollout(grid, prediction_type, step_fn, noise=NOISE, correction=None):
    trajectory = rollout(
        network,
        MIXING,
        noise,
        jnp.float32(0.3),
        grid=grid,
        prediction_type=prediction_type,
        step_fn=step_fn,
        gradient_steps=len(grid.timesteps),
        remat="none",
        unroll=False,
        correction=correction,
    )
    return trajectory.latents


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_alphas_cumprod(beta_schedule):
    config = STABLE_DIFFUSION | {"beta_schedule": beta_schedule}
    state = flax_ddim.FlaxDDIMScheduler(**config).create_state()
    expected = np.asarray(state.common.alphas_cumprod)
    np.testing.assert_allclose(get_alphas_cumprod(config), expected, rtol=1e-4, atol=1e-7)


def ddim_of_diffusers(config, num_steps, timesteps=None):
    scheduler = flax_ddim.FlaxDDIMScheduler(**config, clip_sample=False)
    state = scheduler.set_timesteps(scheduler.create_state(), num_steps)
    if timesteps is not None:
        state = state.replace(timesteps=jnp.asarray(timesteps))
    latents = NOISE * state.init_noise_sigma
    for timestep in state.timesteps:
        model_output = network(MIXING, latents, timestep, 0.3)
        latents = scheduler.step(state, model_output, timestep, latents).prev_sample
    return state.timesteps, latents


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("set_alpha_to_one", "steps_offset"), [(True, 0), (False, 0), (True, 1), (False, 1)])
def test_ddim_leading(prediction_type, set_alpha_to_one, steps_offset):
    config = STABLE_DIFFUSION | {
        "prediction_type": prediction_type,
        "set_alpha_to_one": set_alpha_to_one,
        "steps_offset": steps_offset,
    }
    grid = make_grid(config, 4)
    timesteps, expected = ddim_of_diffusers(config, 4)
    np.testing.assert_array_equal(grid.timesteps, timesteps)
    for step_fn in (ddim_step, euler_step):
        actual = our_rollout(grid, prediction_type, step_fn)
        chex.assert_trees_all_close(actual, expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_ddim_with_a_step_count_that_does_not_divide(prediction_type):
    """Leading spacing stays on t - 1000 // S for any S, so 7 steps agree as well."""
    config = STABLE_DIFFUSION | {"prediction_type": prediction_type, "steps_offset": 1}
    _, expected = ddim_of_diffusers(config, 7)
    actual = our_rollout(make_grid(config, 7), prediction_type, ddim_step)
    chex.assert_trees_all_close(actual, expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("num_steps", [5, 8])
def test_ddim_trailing(prediction_type, set_alpha_to_one, num_steps):
    """The Flax scheduler has no trailing spacing: it is given the timesteps, its step does the rest."""
    config = STABLE_DIFFUSION | {"prediction_type": prediction_type, "set_alpha_to_one": set_alpha_to_one}
    timesteps = np.round(np.arange(1000, 0, -1000 / num_steps)).astype(np.int32) - 1
    grid = make_grid(config | {"timestep_spacing": "trailing"}, num_steps)
    np.testing.assert_array_equal(grid.timesteps, timesteps)
    _, expected = ddim_of_diffusers(config, num_steps, timesteps)
    actual = our_rollout(grid, prediction_type, ddim_step)
    chex.assert_trees_all_close(actual, expected, rtol=5e-4, atol=5e-4)


def euler_of_diffusers(config, num_steps):
    scheduler = flax_euler.FlaxEulerDiscreteScheduler(**config)
    state = scheduler.set_timesteps(scheduler.create_state(), num_steps)
    exploding = NOISE * state.init_noise_sigma
    for timestep in state.timesteps:
        model_input = scheduler.scale_model_input(state, exploding, timestep)
        model_output = network(MIXING, model_input, timestep, 0.3)
        exploding = scheduler.step(state, model_output, timestep, exploding).prev_sample
    return state, exploding


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_euler_leading(prediction_type):
    """Euler of diffusers keeps x = latents / signal_rate and starts at noise * sqrt(sigma^2 + 1), our noise.

    It ends at sigma 0, where both coordinates agree, and its leading spacing always adds 1.
    """
    config = STABLE_DIFFUSION | {"prediction_type": prediction_type, "timestep_spacing": "leading"}
    state, expected = euler_of_diffusers(config, 5)
    grid = make_grid(config | {"steps_offset": 1}, 5)
    np.testing.assert_array_equal(grid.timesteps, state.timesteps)
    np.testing.assert_allclose(sigmas(grid), state.sigmas, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(state.init_noise_sigma * grid.signal_rates[0], 1, rtol=1e-5)
    for step_fn in (ddim_step, euler_step):
        actual = our_rollout(grid, prediction_type, step_fn)
        chex.assert_trees_all_close(actual, expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_euler_linspace(prediction_type):
    """Here diffusers visits timesteps between the integers, and starts at noise * sigma instead.

    Our linspace rounds, as DDIM does. So the grid is built from the scheduler's own sigmas, and the start is
    noise * noise_rate: what is compared is the step and the coordinates, not the spacing.
    """
    config = STABLE_DIFFUSION | {"prediction_type": prediction_type, "timestep_spacing": "linspace"}
    state, expected = euler_of_diffusers(config, 5)
    sigma = np.asarray(state.sigmas, np.float64)
    grid = Grid(
        timesteps=np.asarray(state.timesteps, np.float32),
        signal_rates=(1 / np.sqrt(1 + sigma**2)).astype(np.float32),
        noise_rates=(sigma / np.sqrt(1 + sigma**2)).astype(np.float32),
    )
    np.testing.assert_allclose(sigmas(grid), sigma, rtol=1e-5)
    actual = our_rollout(grid, prediction_type, euler_step, NOISE * grid.noise_rates[0])
    chex.assert_trees_all_close(actual, expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_dpm_solver_of_second_order(prediction_type):
    """The multistep scheduler lands on timestep 0; of 15 steps or more only the first is of first order."""
    config = STABLE_DIFFUSION | {"prediction_type": prediction_type}
    scheduler = flax_dpm.FlaxDPMSolverMultistepScheduler(
        **config, solver_order=2, algorithm_type="dpmsolver++"
    )
    state = scheduler.set_timesteps(scheduler.create_state(), 16, NOISE.shape)
    expected = NOISE
    for timestep in state.timesteps:
        model_output = network(MIXING, expected, timestep, 0.3)
        expected, state = scheduler.step(state, model_output, timestep, expected, return_dict=False)
    visited = np.append(np.asarray(state.timesteps), 0)
    abar = get_alphas_cumprod(config)[visited]
    rates = (np.sqrt(x).astype(np.float32) for x in (abar, 1.0 - abar))
    grid = Grid(visited[:-1].astype(np.int32), *rates)
    actual = our_rollout(grid, prediction_type, ddim_step, correction=second_order(grid))
    chex.assert_trees_all_close(actual, expected, rtol=1e-3, atol=1e-3)
    first = our_rollout(grid, prediction_type, ddim_step)
    assert np.abs(first - expected).max() > 0.02  # or the correction would not have been seen
