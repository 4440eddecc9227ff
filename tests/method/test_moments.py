"""Running moments against a weighted mean of all batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.method.moments import init_moments, std, update_moments


def as_values(values):
    return jnp.asarray(values, jnp.float32)


def test_moments_match_a_slow_loop():
    gaps = np.random.default_rng(1).normal(0.4, 0.7, size=(5, 8)).astype(np.float32)
    decay = 0.9
    moments = init_moments()
    update = jax.jit(lambda s, g: update_moments(s, g, decay=decay))
    for gap in gaps:
        moments = update(moments, jnp.asarray(gap))
    # The bias-corrected average of an exponential window, written out as a weighted mean of all batches.
    weights = np.array([decay ** (len(gaps) - 1 - i) for i in range(len(gaps))], np.float64)
    mean = np.sum(weights * [gap.mean() for gap in gaps]) / weights.sum()
    mean_square = np.sum(weights * [np.mean(gap.astype(np.float64) ** 2) for gap in gaps]) / weights.sum()
    expected = np.float32(np.sqrt(mean_square - mean**2))
    chex.assert_trees_all_close(std(moments, eps=1e-6), expected, rtol=1e-5)
    chex.assert_trees_all_close(moments.mean / moments.weight, np.float32(mean), rtol=1e-5)


def test_one_batch_already_has_its_own_deviation():
    gap = as_values([1.0, 3.0, 5.0, 7.0])
    moments = update_moments(init_moments(), gap, decay=0.99)
    chex.assert_trees_all_close(std(moments, eps=1e-6), np.float32(np.sqrt(5)), rtol=1e-4)


def test_the_deviation_has_a_floor_and_is_the_floor_before_the_first_update():
    start = init_moments()
    chex.assert_trees_all_close(std(start, eps=0.01), np.float32(0.01))
    constant = update_moments(start, jnp.full(4, 2.0), decay=0.5)
    chex.assert_trees_all_close(std(constant, eps=0.01), np.float32(0.01))


def test_moments_carry_no_gradient_and_keep_their_structure():
    start = init_moments()
    chex.assert_type(list(start), jnp.float32)
    updated = update_moments(start, as_values([1.0, 2.0]), decay=0.9)
    chex.assert_trees_all_equal_shapes_and_dtypes(start, updated)
    gradient = jax.grad(lambda gap: std(update_moments(start, gap, decay=0.9), eps=1e-6))(
        as_values([1.0, 2.0])
    )
    chex.assert_trees_all_equal(gradient, jnp.zeros(2))


def test_misuse_is_rejected():
    with pytest.raises(ValueError, match="decay is 1.0"):
        update_moments(init_moments(), jnp.zeros(2), decay=1.0)
    with pytest.raises(ValueError, match="eps is 0"):
        std(init_moments(), eps=0.0)
