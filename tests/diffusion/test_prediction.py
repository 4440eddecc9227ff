"""Prediction types: closed forms, round trips between all of them, and the edges of the noise range."""

import itertools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.diffusion.prediction import PREDICTION_TYPES, to_denoised, to_noise, to_target
from rats_jax.diffusion.schedule import add_noise

SHAPE = (2, 2, 2, 1)


def rates(prediction_type, noise_level):
    """Rates of a flow, or of a variance-preserving diffusion, at a noise level in [0, 1]."""
    if prediction_type == "flow":
        return np.float32(1 - noise_level), np.float32(noise_level)
    return np.float32(np.cos(noise_level * np.pi / 2)), np.float32(np.sin(noise_level * np.pi / 2))


def pair(seed):
    return np.random.default_rng(seed).normal(size=(2, *SHAPE)).astype(np.float32)


def slow_target(prediction_type, denoised, noise, signal_rate, noise_rate):
    target = np.empty_like(denoised)
    for index in np.ndindex(denoised.shape):
        x, n = float(denoised[index]), float(noise[index])
        target[index] = {
            "epsilon": n,
            "sample": x,
            "v_prediction": float(signal_rate) * n - float(noise_rate) * x,
            "flow": n - x,
        }[prediction_type]
    return target


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("jit", [False, True])
def test_target_matches_a_slow_loop(prediction_type, jit):
    denoised, noise = pair(0)
    signal_rate, noise_rate = rates(prediction_type, 0.3)

    def function(*arguments):
        return to_target(*arguments, prediction_type=prediction_type)

    actual = (jax.jit(function) if jit else function)(
        jnp.asarray(denoised), jnp.asarray(noise), signal_rate, noise_rate
    )
    chex.assert_trees_all_close(
        actual, slow_target(prediction_type, denoised, noise, signal_rate, noise_rate), atol=1e-6
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@hypothesis.given(seed=st.integers(0, 2**31 - 1), noise_level=st.floats(0.1, 0.9))
@hypothesis.settings(deadline=None, max_examples=20)
def test_a_perfect_output_returns_the_pair_that_made_the_latents(prediction_type, seed, noise_level):
    denoised, noise = pair(seed)
    signal_rate, noise_rate = rates(prediction_type, noise_level)
    latents = add_noise(denoised, noise, signal_rate, noise_rate)
    target = slow_target(prediction_type, denoised, noise, signal_rate, noise_rate)
    arguments = (target, latents, signal_rate, noise_rate)
    chex.assert_trees_all_close(to_denoised(*arguments, prediction_type=prediction_type), denoised, atol=2e-5)
    chex.assert_trees_all_close(to_noise(*arguments, prediction_type=prediction_type), noise, atol=2e-5)


# v_prediction and flow share no rates inside (0, 1), so they have no round trip between them.
@pytest.mark.parametrize(
    ("start", "other"),
    [pair for pair in itertools.permutations(PREDICTION_TYPES, 2) if set(pair) != {"v_prediction", "flow"}],
)
@hypothesis.given(seed=st.integers(0, 2**31 - 1), noise_level=st.floats(0.1, 0.9))
@hypothesis.settings(deadline=None, max_examples=5)
def test_any_output_survives_a_round_trip_through_any_other_type(start, other, seed, noise_level):
    model_output, latents = pair(seed)
    level = rates("flow" if "flow" in (start, other) else "v_prediction", noise_level)

    def convert(output, source, target):
        estimates = (
            to_denoised(output, latents, *level, prediction_type=source),
            to_noise(output, latents, *level, prediction_type=source),
        )
        return to_target(*estimates, *level, prediction_type=target)

    there = convert(model_output, start, other)
    chex.assert_trees_all_close(convert(there, other, start), model_output, atol=1e-3)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("jit", [False, True])
def test_estimates_explain_the_latents(prediction_type, jit):
    model_output, latents = pair(2)
    signal_rate, noise_rate = rates(prediction_type, 0.7)

    def explain(*arguments):
        denoised = to_denoised(*arguments, prediction_type=prediction_type)
        noise = to_noise(*arguments, prediction_type=prediction_type)
        return add_noise(denoised, noise, *arguments[2:])

    explain = jax.jit(explain) if jit else explain
    actual = explain(jnp.asarray(model_output), jnp.asarray(latents), signal_rate, noise_rate)
    chex.assert_trees_all_close(actual, latents, atol=1e-5)


def test_pure_noise_divides_by_nothing():
    model_output, latents = (jnp.asarray(x) for x in pair(3))
    for prediction_type in ("v_prediction", "flow"):
        arguments = (model_output, latents, 0.0, 1.0)
        chex.assert_trees_all_equal(to_noise(*arguments, prediction_type=prediction_type), latents)
        chex.assert_tree_all_finite(to_denoised(*arguments, prediction_type=prediction_type))
    chex.assert_trees_all_equal(
        to_denoised(model_output, latents, 0.0, 1.0, prediction_type="v_prediction"), -model_output
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("shape", [SHAPE, (2, 4), (2, 2, 2), (2, 1, 2, 2, 1)])
def test_rates_per_sample_act_per_sample(prediction_type, shape):
    model_output, latents = (jnp.asarray(x).reshape(shape) for x in pair(4))
    levels = [rates(prediction_type, level) for level in (0.2, 0.6)]
    per_sample = (2, *(1,) * (len(shape) - 1))
    signal_rate, noise_rate = (jnp.asarray(x).reshape(per_sample) for x in zip(*levels, strict=True))
    for function in (to_denoised, to_noise, to_target):
        actual = function(model_output, latents, signal_rate, noise_rate, prediction_type=prediction_type)
        for b, level in enumerate(levels):
            one = slice(b, b + 1)
            expected = function(model_output[one], latents[one], *level, prediction_type=prediction_type)
            chex.assert_trees_all_close(actual[one], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_gradients_are_those_of_finite_differences(prediction_type):
    model_output, latents = (jnp.asarray(x) for x in pair(5))
    level = rates(prediction_type, 0.4)
    for function in (to_denoised, to_noise):

        def scalar(output, x, function=function):
            return jnp.sum(jnp.sin(function(output, x, *level, prediction_type=prediction_type)))

        chex.assert_numerical_grads(scalar, (model_output, latents), order=1, atol=1e-2, rtol=1e-2)


def test_an_unknown_type_and_a_wrong_shape_are_rejected():
    x = jnp.zeros(SHAPE)
    for function in (to_denoised, to_noise, to_target):
        with pytest.raises(ValueError, match="prediction_type is 'score', expected one of epsilon"):
            function(x, x, 0.6, 0.8, prediction_type="score")
        with pytest.raises(AssertionError):
            function(x, x[:1], 0.6, 0.8, prediction_type="epsilon")
        with pytest.raises(AssertionError):
            function(x, x, jnp.ones(2), 0.8, prediction_type="epsilon")
