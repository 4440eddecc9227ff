"""Grids against slow NumPy loops and the formulas of diffusers."""

import chex
import numpy as np
import pytest

from rats_jax.diffusion import grid as grids
from rats_jax.diffusion import schedule

STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


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
        actual = grids.make_timesteps(
            num_steps, num_train_timesteps=1000, timestep_spacing=timestep_spacing, steps_offset=1
        )
        expected = diffusers_timesteps(num_steps, 1000, timestep_spacing, 1)
        # For some S the arange of diffusers rounds to one value more, a timestep of -1: the grid drops it.
        assert expected[num_steps:].tolist() in ([], [-1])
        np.testing.assert_array_equal(actual, expected[:num_steps])
        assert actual.dtype == np.int32 and len(actual) == num_steps


def test_timesteps_of_common_settings():
    def timesteps(num_steps, timestep_spacing, steps_offset):
        return grids.make_timesteps(
            num_steps,
            num_train_timesteps=1000,
            timestep_spacing=timestep_spacing,
            steps_offset=steps_offset,
        ).tolist()

    assert timesteps(4, "leading", 1) == [751, 501, 251, 1]
    assert timesteps(3, "trailing", 1) == [999, 666, 332]
    assert timesteps(5, "trailing", 0) == [999, 799, 599, 399, 199]
    assert timesteps(5, "linspace", 1) == [999, 749, 500, 250, 0]


def test_absent_keys_take_the_defaults_of_ddim_scheduler():
    grid = grids.make_grid({}, 4)
    np.testing.assert_array_equal(grid.timesteps, [750, 500, 250, 0])
    assert (grid.signal_rates[-1], grid.noise_rates[-1]) == (1.0, 0.0)


def test_each_step_lands_on_the_next_timestep():
    """Three trailing steps: diffusers lands on t - 1000 // 3 = 333 but evaluates at 332; a Grid does not."""
    config = STABLE_DIFFUSION | {"timestep_spacing": "trailing"}
    grid = grids.make_grid(config, 3)
    alphas_cumprod = schedule.get_alphas_cumprod(config)
    visited = np.append(alphas_cumprod[[999, 666, 332]], 1.0)
    np.testing.assert_allclose(grid.signal_rates, np.sqrt(visited), rtol=1e-6)
    np.testing.assert_allclose(grid.noise_rates, np.sqrt(1 - visited), rtol=1e-6)
    assert grid.signal_rates.dtype == grid.noise_rates.dtype == np.float32


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_set_alpha_to_one_decides_where_the_last_step_lands(set_alpha_to_one):
    config = STABLE_DIFFUSION | {"set_alpha_to_one": set_alpha_to_one}
    expected = 1.0 if set_alpha_to_one else 1 - 0.00085
    np.testing.assert_allclose(grids.make_grid(config, 5).signal_rates[-1] ** 2, expected, rtol=1e-6)


def slow_flow_sigmas(num_steps, shift):
    levels = [1 - i / num_steps for i in range(num_steps)]
    return [shift * level / (1 + (shift - 1) * level) for level in levels] + [0.0]


@pytest.mark.parametrize("num_steps", [1, 4, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_grid_matches_a_slow_loop(num_steps, shift):
    grid = grids.make_flow_grid(num_steps, num_train_timesteps=1000, shift=shift)
    expected = np.array(slow_flow_sigmas(num_steps, shift))
    np.testing.assert_allclose(grid.noise_rates, expected, rtol=1e-6)
    np.testing.assert_allclose(grid.signal_rates, 1 - expected, rtol=1e-6)
    np.testing.assert_allclose(grid.timesteps, 1000 * expected[:-1], rtol=1e-6)
    assert grid.timesteps.dtype == np.float32
    assert (grid.signal_rates[0], grid.noise_rates[0]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("tokens", "num_steps", "expected"),
    [
        (1024, 3, [1, 0.7897, 0.4842]),
        (1024, 4, [1, 0.8492, 0.6525, 0.3849]),
        (1024, 8, [1, 0.9293, 0.8492, 0.7578, 0.6525, 0.5298, 0.3849, 0.2115]),
        (4096, 5, [1, 0.9266, 0.8257, 0.678, 0.4412]),
    ],
)
def test_the_published_levels_of_flux(tokens, num_steps, expected):
    config = FLOW | {"use_dynamic_shifting": True}
    grid = grids.make_grid(config, num_steps, num_tokens=tokens)
    np.testing.assert_allclose(grid.noise_rates, [*expected, 0], atol=6e-5)
    with pytest.raises(ValueError, match="use_dynamic_shifting is True, expected false in a pipeline"):
        grids.make_grid(config, num_steps)


@pytest.mark.parametrize("shift", [1.0, 1.878, 3.0])
def test_few_steps_of_a_flow_lie_on_the_many_where_they_divide_them(shift):
    teacher = grids.make_flow_grid(50, num_train_timesteps=1000, shift=shift)
    for num_steps in (1, 2, 5, 10, 25):
        student = grids.make_flow_grid(num_steps, num_train_timesteps=1000, shift=shift)
        for name in grids.Grid._fields:
            many = getattr(teacher, name)
            np.testing.assert_array_equal(getattr(student, name), many[:: 50 // num_steps])


def test_sigmas_are_infinite_at_pure_noise_and_zero_at_data():
    zero_snr = STABLE_DIFFUSION | {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    for config in (FLOW, zero_snr):
        sigmas = grids.sigmas(grids.make_grid(config, 5))
        assert sigmas[0] == np.inf and sigmas[-1] == 0.0
        assert np.all(np.diff(sigmas[1:]) < 0)
    leading = grids.sigmas(grids.make_grid(STABLE_DIFFUSION, 5))
    alphas_cumprod = schedule.get_alphas_cumprod(STABLE_DIFFUSION)[[800, 600, 400, 200, 0]]
    np.testing.assert_allclose(leading[:-1], np.sqrt(1 / alphas_cumprod - 1), rtol=1e-6)
    assert leading.dtype == np.float64


def test_a_flow_prediction_type_selects_the_flow_grid():
    chex.assert_trees_all_equal(
        grids.make_grid({"prediction_type": "flow", "shift": 3.0}, 4), grids.make_grid(FLOW, 4)
    )


@pytest.mark.parametrize(
    ("config", "num_steps", "message"),
    [
        ({}, 0, "num_steps is 0, expected from 1 to num_train_timesteps = 1000"),
        ({}, 1001, "num_steps is 1001"),
        (FLOW, 0, "num_steps is 0"),
        (FLOW, 1001, "num_steps is 1001"),
        ({"beta_schedule": "sigmoid"}, 4, "beta_schedule is 'sigmoid', expected 'linear' or 'scaled_linear'"),
        ({"beta_start": 0.0}, 4, "beta_start is 0.0"),
        ({"beta_end": 1.5}, 4, "beta_end is 1.5"),
        ({"timestep_spacing": "karras"}, 4, "timestep_spacing is 'karras', expected 'leading'"),
        ({"steps_offset": -1}, 4, "steps_offset is -1"),
        ({"steps_offset": 1}, 1000, "steps_offset is 1"),
        ({"clip_sample": True}, 4, "clip_sample is True, expected False"),
        ({"use_karras_sigmas": True}, 4, "use_karras_sigmas is True"),
        (FLOW | {"use_dynamic_shifting": True}, 4, "use_dynamic_shifting is True"),
        (FLOW | {"shift": 0.0}, 4, "shift is 0.0, expected a number > 0"),
    ],
)
def test_an_unsupported_configuration_names_field_value_and_expectation(config, num_steps, message):
    with pytest.raises(ValueError, match=message):
        grids.make_grid(config, num_steps)


def test_a_grid_rejects_timesteps_and_levels_outside_the_schedule():
    alphas_cumprod = np.array([0.9, 0.5, 0.1])
    for timesteps in ([3, 1], [1, -1], [1, 1], [0, 2]):
        with pytest.raises(ValueError, match="timesteps"):
            grids.make_diffusion_grid(alphas_cumprod, np.array(timesteps), final_alpha_cumprod=1.0)
    with pytest.raises(ValueError, match="final_alpha_cumprod"):
        grids.make_diffusion_grid(alphas_cumprod, np.array([2, 0]), final_alpha_cumprod=1.1)
    with pytest.raises(ValueError, match="num_train_timesteps"):
        schedule.get_alphas_cumprod({"num_train_timesteps": 1, "rescale_betas_zero_snr": True})
    with pytest.raises(ValueError, match="flow"):
        schedule.get_alphas_cumprod(FLOW)
