"""Sums of rewards against sums written out."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.method.combine import normalised_sum, weighted_sum
from rats_jax.method.moments import init_moments, update_moments

WEIGHTS = {"bright": 3.0, "near": 0.5}


@pytest.fixture
def rewards():
    rng = np.random.default_rng(0)
    scales = {"bright": 1e-3, "near": 20.0, "watched": 1.0}
    return {name: jnp.asarray(scale * rng.normal(size=5), jnp.float32) for name, scale in scales.items()}


@pytest.mark.parametrize("jit", [False, True])
def test_the_weighted_sum_is_of_the_weighted_rewards_alone(rewards, jit):
    def combine(rewards):
        return weighted_sum(rewards, {}, weights=WEIGHTS)

    expected = [
        3.0 * float(b) + 0.5 * float(n) for b, n in zip(rewards["bright"], rewards["near"], strict=True)
    ]
    actual = (jax.jit(combine) if jit else combine)(rewards)
    chex.assert_type(actual, jnp.float32)
    chex.assert_trees_all_close(actual, np.float32(expected), rtol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_the_normalised_sum_divides_each_reward_by_its_deviation(rewards, jit):
    means = {"bright": 0.02, "near": -30.0}
    seen = {n: np.random.default_rng(1).normal(means[n], float(np.std(rewards[n])), 64) for n in WEIGHTS}
    moments = {name: update_moments(init_moments(), jnp.float32(x), decay=0.9) for name, x in seen.items()}

    def combine(rewards, moments):
        return normalised_sum(rewards, moments, weights=WEIGHTS)

    actual = (jax.jit(combine) if jit else combine)(rewards, moments)
    parts = {name: WEIGHTS[name] * np.float64(rewards[name]) / np.std(seen[name]) for name in WEIGHTS}
    chex.assert_trees_all_close(actual, np.float32(parts["bright"] + parts["near"]), rtol=3e-3)
    assert 0.1 < np.std(parts["bright"]) / np.std(parts["near"]) < 60  # of rewards that differ 20,000-fold


def test_a_reward_that_never_varies_is_not_blown_up_and_the_scale_has_no_gradient(rewards):
    constant = {name: update_moments(init_moments(), jnp.full(4, 2.0), decay=0.9) for name in WEIGHTS}
    assert np.all(np.isfinite(normalised_sum(rewards, constant, weights=WEIGHTS)))

    def total(values):
        moments = {name: update_moments(init_moments(), x, decay=0.9) for name, x in values.items()}
        return jnp.sum(normalised_sum(values, moments, weights={"near": 1.0}))

    values = {"near": rewards["near"]}
    expected = np.full(5, 1 / np.std(np.float64(rewards["near"])), np.float32)
    chex.assert_trees_all_close(jax.grad(total)(values)["near"], expected, rtol=1e-4)
