"""The loss: closed forms, the three methods that are special cases of it, and its gradient."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.method.gate import constant_gate, sigmoid_gate
from rats_jax.method.loss import hinge_reward, negative_reward, rats_loss


def test_negative_reward():
    reward = jnp.array([1.0, -2.0])
    chex.assert_trees_all_equal(negative_reward(reward), jnp.array([-1.0, 2.0]))
    chex.assert_trees_all_equal(jax.grad(lambda r: negative_reward(r).sum())(reward), -jnp.ones(2))


def test_hinge_reward_stops_at_the_margin():
    reward = jnp.array([0.5, 2.0, 3.0])
    chex.assert_trees_all_equal(hinge_reward(reward, margin=2.0), jnp.array([1.5, 0.0, 0.0]))
    gradient = jax.grad(lambda r: hinge_reward(r, margin=2.0).sum())(reward)
    chex.assert_trees_all_equal(gradient, jnp.array([-1.0, 0.0, 0.0]))


def parts(seed=0, batch=5):
    reward_loss, shaping, gate = np.random.default_rng(seed).uniform(size=(3, batch)).astype(np.float32)
    return jnp.asarray(reward_loss), jnp.asarray(shaping), jnp.asarray(gate)


@pytest.mark.parametrize("jit", [False, True])
def test_rats_loss_matches_a_slow_loop(jit):
    reward_loss, shaping, gate = parts()
    expected = 0.0
    for b in range(5):
        expected += (0.7 * float(reward_loss[b]) + 2.5 * float(gate[b]) * float(shaping[b])) / 5

    def function(*arguments):
        return rats_loss(*arguments, reward_weight=0.7, shaping_weight=2.5)

    actual = (jax.jit(function) if jit else function)(reward_loss, shaping, gate)
    chex.assert_shape(actual, ())
    chex.assert_trees_all_close(actual, np.float32(expected), rtol=1e-6)


def test_three_methods_are_special_cases():
    reward_loss, shaping, _ = parts()
    teacher, student = jnp.linspace(-1, 1, 5), jnp.zeros(5)

    def loss(gate, reward_weight):
        return rats_loss(reward_loss, shaping, gate, reward_weight=reward_weight, shaping_weight=3.0)

    distillation = loss(constant_gate(teacher, student, 1.0, value=1.0), 0.0)
    reward_only = loss(constant_gate(teacher, student, 1.0, value=0.0), 1.0)
    rats = loss(sigmoid_gate(teacher, student, 0.2), 1.0)
    chex.assert_trees_all_close(distillation, 3.0 * shaping.mean(), rtol=1e-6)
    chex.assert_trees_all_close(reward_only, reward_loss.mean(), rtol=1e-6)
    assert float(reward_only) < float(rats) < float(reward_only + distillation)


def test_gradient_weighs_every_sample_by_its_gate():
    reward_loss, shaping, gate = parts()
    gradients = jax.grad(
        lambda r, s: rats_loss(r, s, gate, reward_weight=0.7, shaping_weight=2.5), argnums=(0, 1)
    )(reward_loss, shaping)
    chex.assert_trees_all_close(gradients, (jnp.full(5, 0.7 / 5), 2.5 * gate / 5), rtol=1e-6)
    chex.assert_numerical_grads(
        lambda r, s: rats_loss(jnp.sin(r), jnp.square(s), gate, reward_weight=0.7, shaping_weight=2.5),
        (reward_loss, shaping),
        order=1,
        atol=1e-2,
        rtol=1e-2,
    )


@hypothesis.given(seed=st.integers(0, 2**31 - 1))
@hypothesis.settings(deadline=None, max_examples=20)
def test_the_order_of_the_batch_does_not_matter(seed):
    arguments = parts(seed)
    order = np.random.default_rng(seed).permutation(5)
    weights = {"reward_weight": 1.0, "shaping_weight": 2.0}
    chex.assert_trees_all_close(
        rats_loss(*(x[order] for x in arguments), **weights), rats_loss(*arguments, **weights), rtol=1e-5
    )


def test_misuse_is_rejected():
    reward_loss, shaping, gate = parts()
    with pytest.raises(ValueError, match="loss weights are -1.0 and 2.0"):
        rats_loss(reward_loss, shaping, gate, reward_weight=-1.0, shaping_weight=2.0)
    with pytest.raises(AssertionError):
        rats_loss(reward_loss, shaping[:1], gate, reward_weight=1.0, shaping_weight=2.0)
    with pytest.raises(AssertionError):
        negative_reward(jnp.zeros((2, 1)))
