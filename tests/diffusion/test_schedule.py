"""Schedules against slow NumPy loops, published constants and the formulas of diffusers."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.diffusion import schedule

STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


def slow_alphas_cumprod(beta_schedule, num_train_timesteps, beta_start, beta_end, rescale):
    betas = []
    for i in range(num_train_timesteps):
        share = i / (num_train_timesteps - 1)
        if beta_schedule == "linear":
            betas.append(beta_start + share * (beta_end - beta_start))
        elif beta_schedule == "scaled_linear":
            low, high = math.sqrt(beta_start), math.sqrt(beta_end)
            betas.append((low + share * (high - low)) ** 2)
        else:
            bars = [
                math.cos((u / num_train_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (i, i + 1)
            ]
            betas.append(min(1 - bars[1] / bars[0], 0.999))
    product, products = 1.0, []
    for beta in betas:
        product *= 1 - beta
        products.append(product)
    if rescale:  # Lin et al., algorithm 1
        roots = [math.sqrt(product) for product in products]
        scale = roots[0] / (roots[0] - roots[-1])
        products = [((root - roots[-1]) * scale) ** 2 for root in roots]
    return np.array(products)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("rescale", [False, True])
def test_alphas_cumprod_match_a_slow_loop(beta_schedule, rescale):
    actual = schedule.make_alphas_cumprod(
        beta_schedule=beta_schedule,
        num_train_timesteps=100,
        beta_start=0.001,
        beta_end=0.02,
        rescale_betas_zero_snr=rescale,
    )
    assert actual.dtype == np.float64
    np.testing.assert_allclose(
        actual, slow_alphas_cumprod(beta_schedule, 100, 0.001, 0.02, rescale), rtol=1e-9, atol=1e-15
    )
    assert np.all(np.diff(actual) < 0)
    assert (actual[-1] == 0.0) == rescale


def test_stable_diffusion_has_its_published_sigmas():
    """k-diffusion and diffusers print sigma_min 0.0292 and sigma_max 14.6146 for Stable Diffusion 1.x."""
    alphas_cumprod = schedule.get_alphas_cumprod(STABLE_DIFFUSION)
    sigma = np.sqrt(1 / alphas_cumprod - 1)
    np.testing.assert_allclose(sigma[[0, -1]], [0.0292, 14.6146], atol=5e-5)


def test_absent_keys_take_the_defaults_of_ddim_scheduler():
    expected = slow_alphas_cumprod("linear", 1000, 0.0001, 0.02, False)
    np.testing.assert_allclose(schedule.get_alphas_cumprod({}), expected, rtol=1e-9)
    grid = schedule.make_grid({}, 4)
    np.testing.assert_array_equal(grid.timesteps, [750, 500, 250, 0])
    assert (grid.signal_rates[-1], grid.noise_rates[-1]) == (1.0, 0.0)
    assert schedule.get_prediction_type({}) == "epsilon"


def test_trained_betas_replace_the_schedule():
    betas = [0.1, 0.2, 0.5]
    config = {"trained_betas": betas, "num_train_timesteps": 3, "beta_schedule": "not read"}
    np.testing.assert_allclose(schedule.get_alphas_cumprod(config), [0.9, 0.72, 0.36])
    with pytest.raises(ValueError, match="trained_betas"):
        schedule.get_alphas_cumprod({"trained_betas": betas, "num_train_timesteps": 4})


def diffusers_timesteps(num_steps, num_train_timesteps, timestep_spacing, steps_offset):
    """The three formulas of `DDIMScheduler.set_timesteps` in diffusers 0.39, without PyTorch."""
    if timestep_spacing == "linspace":
        timesteps = np.linspace(0, num_train_timesteps - 1, num_steps).round()[::-1].astype(np.int64)
    elif timestep_spacing == "leading":
        step_ratio = num_train_timesteps // num_steps
        timesteps = (np.arange(0, num_steps) * step_ratio).round()[::-1].astype(np.int64) + steps_offset
    else:
        step_ratio = num_train_timesteps / num_steps
        timesteps = np.round(np.arange(num_train_timesteps, 0, -step_ratio)).astype(np.int64) - 1
    return timesteps


@pytest.mark.parametrize("timestep_spacing", ["leading", "linspace", "trailing"])
def test_timesteps_are_those_of_diffusers(timestep_spacing):
    for num_steps in range(1, 1000):
        actual = schedule.make_timesteps(
            num_steps, num_train_timesteps=1000, timestep_spacing=timestep_spacing, steps_offset=1
        )
        expected = diffusers_timesteps(num_steps, 1000, timestep_spacing, 1)
        # For some S the arange of diffusers rounds to one value more, a timestep of -1: the grid drops it.
        assert expected[num_steps:].tolist() in ([], [-1])
        np.testing.assert_array_equal(actual, expected[:num_steps])
        assert actual.dtype == np.int32 and len(actual) == num_steps


def test_timesteps_of_common_settings():
    def timesteps(num_steps, timestep_spacing, steps_offset):
        return schedule.make_timesteps(
            num_steps,
            num_train_timesteps=1000,
            timestep_spacing=timestep_spacing,
            steps_offset=steps_offset,
        ).tolist()

    assert timesteps(4, "leading", 1) == [751, 501, 251, 1]
    assert timesteps(3, "trailing", 1) == [999, 666, 332]
    assert timesteps(5, "trailing", 0) == [999, 799, 599, 399, 199]
    assert timesteps(5, "linspace", 1) == [999, 749, 500, 250, 0]


def test_each_step_lands_on_the_next_timestep():
    """Three trailing steps: diffusers lands on t - 1000 // 3 = 333 but evaluates at 332; a Grid does not."""
    config = STABLE_DIFFUSION | {"timestep_spacing": "trailing"}
    grid = schedule.make_grid(config, 3)
    alphas_cumprod = schedule.get_alphas_cumprod(config)
    visited = np.append(alphas_cumprod[[999, 666, 332]], 1.0)
    np.testing.assert_allclose(grid.signal_rates, np.sqrt(visited), rtol=1e-6)
    np.testing.assert_allclose(grid.noise_rates, np.sqrt(1 - visited), rtol=1e-6)
    assert grid.signal_rates.dtype == grid.noise_rates.dtype == np.float32


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_set_alpha_to_one_decides_where_the_last_step_lands(set_alpha_to_one):
    config = STABLE_DIFFUSION | {"set_alpha_to_one": set_alpha_to_one}
    expected = 1.0 if set_alpha_to_one else 1 - 0.00085
    np.testing.assert_allclose(schedule.make_grid(config, 5).signal_rates[-1] ** 2, expected, rtol=1e-6)


def slow_flow_sigmas(num_steps, num_train_timesteps, shift):
    def shifted(level):
        return shift * level / (1 + (shift - 1) * level)

    lowest = shifted(1 / num_train_timesteps)
    levels = [1 + i * (lowest - 1) / max(num_steps - 1, 1) for i in range(num_steps)]
    return [shifted(level) for level in levels] + [0.0]


@pytest.mark.parametrize("num_steps", [1, 4, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_grid_matches_a_slow_loop(num_steps, shift):
    grid = schedule.make_flow_grid(num_steps, num_train_timesteps=1000, shift=shift)
    expected = np.array(slow_flow_sigmas(num_steps, 1000, shift))
    np.testing.assert_allclose(grid.noise_rates, expected, rtol=1e-6)
    np.testing.assert_allclose(grid.signal_rates, 1 - expected, rtol=1e-6)
    np.testing.assert_allclose(grid.timesteps, 1000 * expected[:-1], rtol=1e-6)
    assert grid.timesteps.dtype == np.float32
    assert (grid.signal_rates[0], grid.noise_rates[0]) == (0.0, 1.0)


def test_sigmas_are_infinite_at_pure_noise_and_zero_at_data():
    zero_snr = STABLE_DIFFUSION | {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    for config in (FLOW, zero_snr):
        sigmas = schedule.sigmas(schedule.make_grid(config, 5))
        assert sigmas[0] == np.inf and sigmas[-1] == 0.0
        assert np.all(np.diff(sigmas[1:]) < 0)
    leading = schedule.sigmas(schedule.make_grid(STABLE_DIFFUSION, 5))
    alphas_cumprod = schedule.get_alphas_cumprod(STABLE_DIFFUSION)[[800, 600, 400, 200, 0]]
    np.testing.assert_allclose(leading[:-1], np.sqrt(1 / alphas_cumprod - 1), rtol=1e-6)
    assert leading.dtype == np.float64


def test_add_noise_matches_a_slow_loop_and_jit():
    denoised, noise = np.random.default_rng(0).normal(size=(2, 2, 3, 3, 1)).astype(np.float32)
    signal_rate = np.array([0.8, 0.1], np.float32).reshape(2, 1, 1, 1)
    noise_rate = np.sqrt(1 - signal_rate**2)
    expected = np.empty_like(denoised)
    for index in np.ndindex(denoised.shape):
        b = index[0], 0, 0, 0
        expected[index] = signal_rate[b] * denoised[index] + noise_rate[b] * noise[index]
    arguments = [jnp.asarray(x) for x in (denoised, noise, signal_rate, noise_rate)]
    chex.assert_trees_all_close(schedule.add_noise(*arguments), expected, rtol=1e-6)
    chex.assert_trees_all_close(jax.jit(schedule.add_noise)(*arguments), expected, rtol=1e-6)
    chex.assert_trees_all_close(schedule.add_noise(*arguments[:2], 1.0, 0.0), denoised)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"prediction_type": "v_prediction"}, "v_prediction"),
        ({"prediction_type": "sample"}, "sample"),
        ({"prediction_type": "flow"}, "flow"),
        (FLOW, "flow"),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "v_prediction"),
    ],
)
def test_prediction_type_is_read(config, expected):
    assert schedule.get_prediction_type(config) == expected


def test_a_flow_prediction_type_selects_the_flow_grid():
    chex.assert_trees_all_equal(
        schedule.make_grid({"prediction_type": "flow", "shift": 3.0}, 4), schedule.make_grid(FLOW, 4)
    )


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"prediction_type": "velocity"}, "prediction_type is 'velocity', expected one of epsilon"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"num_train_timesteps": 3, "trained_betas": [0.1, 0.5, 1.0]}, "zero terminal SNR"),
    ],
)
def test_an_impossible_prediction_type_is_rejected(config, field):
    with pytest.raises(ValueError, match=field):
        schedule.get_prediction_type(config)


@pytest.mark.parametrize(
    ("config", "num_steps", "message"),
    [
        ({}, 0, "num_steps is 0, expected from 1 to num_train_timesteps = 1000"),
        ({}, 1001, "num_steps is 1001"),
        (FLOW, 0, "num_steps is 0"),
        (FLOW, 1001, "num_steps is 1001"),
        ({"beta_schedule": "sigmoid"}, 4, "beta_schedule is 'sigmoid', expected linear"),
        ({"beta_start": 0.0}, 4, "beta_start is 0.0"),
        ({"beta_end": 1.5}, 4, "beta_end is 1.5"),
        ({"timestep_spacing": "karras"}, 4, "timestep_spacing is 'karras', expected leading"),
        ({"steps_offset": -1}, 4, "steps_offset is -1"),
        ({"steps_offset": 1}, 1000, "steps_offset is 1"),
        ({"clip_sample": True}, 4, "clip_sample is True, expected false"),
        ({"use_karras_sigmas": True}, 4, "use_karras_sigmas is True"),
        (FLOW | {"use_dynamic_shifting": True}, 4, "use_dynamic_shifting is True"),
        (FLOW | {"shift": 0.0}, 4, "shift is 0.0, expected a positive number"),
    ],
)
def test_an_unsupported_configuration_names_field_value_and_expectation(config, num_steps, message):
    with pytest.raises(ValueError, match=message):
        schedule.make_grid(config, num_steps)


def test_a_grid_rejects_timesteps_and_levels_outside_the_schedule():
    alphas_cumprod = np.array([0.9, 0.5, 0.1])
    for timesteps in ([3, 1], [1, -1], [1, 1], [0, 2]):
        with pytest.raises(ValueError, match="timesteps"):
            schedule.make_diffusion_grid(alphas_cumprod, np.array(timesteps), final_alpha_cumprod=1.0)
    with pytest.raises(ValueError, match="final_alpha_cumprod"):
        schedule.make_diffusion_grid(alphas_cumprod, np.array([2, 0]), final_alpha_cumprod=1.1)
    with pytest.raises(ValueError, match="num_train_timesteps"):
        schedule.get_alphas_cumprod({"num_train_timesteps": 1, "rescale_betas_zero_snr": True})
    with pytest.raises(ValueError, match="flow"):
        schedule.get_alphas_cumprod(FLOW)
