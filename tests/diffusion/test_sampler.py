"""Steps: closed forms, and the equality of DDIM and Euler."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.diffusion.grid import make_grid
from rats_jax.diffusion.sampler import SAMPLERS, ddim_step, euler_step, second_order

SHAPE = (2, 2, 2, 1)


def consistent_arguments(seed, signal_rate, noise_rate):
    denoised, noise = np.random.default_rng(seed).normal(size=(2, *SHAPE)).astype(np.float32)
    return jnp.asarray(signal_rate * denoised + noise_rate * noise), jnp.asarray(denoised), jnp.asarray(noise)


def keywords(signal_rate, noise_rate, next_signal_rate, next_noise_rate):
    return {
        "signal_rate": jnp.float32(signal_rate),
        "noise_rate": jnp.float32(noise_rate),
        "next_signal_rate": jnp.float32(next_signal_rate),
        "next_noise_rate": jnp.float32(next_noise_rate),
    }


@pytest.mark.parametrize("jit", [False, True])
def test_steps_match_slow_loops(jit):
    latents, denoised, noise = consistent_arguments(0, 0.6, 0.8)
    expected_ddim, expected_euler = np.empty(SHAPE), np.empty(SHAPE)
    for index in np.ndindex(SHAPE):
        expected_ddim[index] = 0.96 * float(denoised[index]) + 0.28 * float(noise[index])
        exploding, sigma, next_sigma = float(latents[index]) / 0.6, 0.8 / 0.6, 0.28 / 0.96
        derivative = (exploding - float(denoised[index])) / sigma
        expected_euler[index] = 0.96 * (exploding + (next_sigma - sigma) * derivative)
    levels = keywords(0.6, 0.8, 0.96, 0.28)
    for step_fn, expected in ((ddim_step, expected_ddim), (euler_step, expected_euler)):
        function = jax.jit(step_fn) if jit else step_fn
        chex.assert_trees_all_close(
            function(latents, denoised, noise, **levels), np.float32(expected), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("shape", [(2, 4), (2, 2, 2), (2, 1, 2, 2, 1)])
@pytest.mark.parametrize("step_fn", [ddim_step, euler_step])
def test_a_step_of_any_rank_may_have_levels_per_sample(shape, step_fn):
    denoised, noise = np.random.default_rng(4).normal(size=(2, *shape)).astype(np.float32)
    # A level for each of two samples, now and next.
    angles = np.array([[1.2, 0.9], [0.5, 0.4]], np.float32).reshape(2, 2, *(1,) * (len(shape) - 1))
    (signal, next_signal), (noisy, next_noisy) = np.cos(angles), np.sin(angles)
    latents = signal * denoised + noisy * noise
    actual = step_fn(latents, denoised, noise, **keywords(signal, noisy, next_signal, next_noisy))
    chex.assert_trees_all_close(actual, next_signal * denoised + next_noisy * noise, rtol=1e-5, atol=1e-6)


def test_samplers_are_a_step_and_what_it_adds():
    grid = make_grid({"timestep_spacing": "trailing"}, 6)
    steps = {name: sampler.step for name, sampler in SAMPLERS.items()}
    assert steps == {"ddim": ddim_step, "euler": euler_step, "dpmpp_2m": ddim_step}
    for name, sampler in SAMPLERS.items():
        correction = sampler.correction(grid)
        if name == "dpmpp_2m":
            np.testing.assert_array_equal(correction, second_order(grid))
            assert correction.max() > 0
        else:
            assert correction is None


@hypothesis.given(
    seed=st.integers(0, 2**31 - 1), angle=st.floats(0.2, 1.5), share=st.floats(0, 1), flow=st.booleans()
)
@hypothesis.settings(deadline=None, max_examples=30)
def test_ddim_and_euler_agree(seed, angle, share, flow):
    if flow:
        rates = (1 - angle / 1.6, angle / 1.6, 1 - share * angle / 1.6, share * angle / 1.6)
    else:
        rates = (np.cos(angle), np.sin(angle), np.cos(share * angle), np.sin(share * angle))
    arguments = consistent_arguments(seed, *rates[:2])
    levels = keywords(*rates)
    chex.assert_trees_all_close(
        ddim_step(*arguments, **levels), euler_step(*arguments, **levels), atol=2e-4, rtol=1e-4
    )


@pytest.mark.parametrize("step_fn", [ddim_step, euler_step])
def test_a_step_to_data_is_the_clean_estimate_and_a_step_of_no_length_changes_nothing(step_fn):
    latents, denoised, noise = consistent_arguments(1, 0.6, 0.8)
    chex.assert_trees_all_close(
        step_fn(latents, denoised, noise, **keywords(0.6, 0.8, 1.0, 0.0)), denoised, atol=1e-5
    )
    chex.assert_trees_all_close(
        step_fn(latents, denoised, noise, **keywords(0.6, 0.8, 0.6, 0.8)), latents, atol=1e-6
    )


def test_ddim_starts_from_pure_noise():
    latents, denoised, noise = consistent_arguments(2, 0.0, 1.0)
    actual = ddim_step(latents, denoised, noise, **keywords(0.0, 1.0, 0.6, 0.8))
    chex.assert_trees_all_close(actual, 0.6 * denoised + 0.8 * noise, rtol=1e-6)


@pytest.mark.parametrize("step_fn", [ddim_step, euler_step])
def test_gradients_are_those_of_finite_differences(step_fn):
    levels = keywords(0.6, 0.8, 0.96, 0.28)
    chex.assert_numerical_grads(
        lambda *arguments: jnp.sum(jnp.sin(step_fn(*arguments, **levels))),
        consistent_arguments(3, 0.6, 0.8),
        order=1,
        atol=1e-2,
        rtol=1e-2,
    )
