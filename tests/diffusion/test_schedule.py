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
    assert schedule.get_prediction_type({}) == "epsilon"


def test_trained_betas_replace_the_schedule():
    betas = [0.1, 0.2, 0.5]
    config = {"trained_betas": betas, "num_train_timesteps": 3, "beta_schedule": "not read"}
    np.testing.assert_allclose(schedule.get_alphas_cumprod(config), [0.9, 0.72, 0.36])
    with pytest.raises(ValueError, match="trained_betas"):
        schedule.get_alphas_cumprod({"trained_betas": betas, "num_train_timesteps": 4})


@pytest.mark.parametrize("shape", [(2, 9), (2, 3, 3), (2, 3, 3, 1), (2, 2, 3, 3, 1)])
def test_add_noise_matches_a_slow_loop_and_jit(shape):
    denoised, noise = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    signal_rate = np.array([0.8, 0.1], np.float32).reshape(2, *(1,) * (len(shape) - 1))
    noise_rate = np.sqrt(1 - signal_rate**2)
    expected = np.empty_like(denoised)
    for index in np.ndindex(denoised.shape):
        b = index[0], *(0,) * (len(shape) - 1)
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


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"prediction_type": "velocity"}, "prediction_type is 'velocity', expected 'epsilon' or"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"num_train_timesteps": 3, "trained_betas": [0.1, 0.5, 1.0]}, "zero terminal SNR"),
    ],
)
def test_an_impossible_prediction_type_is_rejected(config, field):
    with pytest.raises(ValueError, match=field):
        schedule.get_prediction_type(config)
