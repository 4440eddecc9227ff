"""Gates: sign, bounds, monotonicity, no gradient; running moments against a slow loop."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.method import gate as gates

REWARDS = st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4)


def as_reward(values):
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("jit", [False, True])
def test_sigmoid_gate_matches_its_closed_form(jit):
    """sigmoid(log 3) = 3/4, so a gap of tau * log 3 gives 3/4 exactly; an equal student gives 1/2."""
    function = jax.jit(gates.sigmoid_gate) if jit else gates.sigmoid_gate
    teacher = as_reward([0.0, 0.5 * np.log(3), -0.5 * np.log(3), 100.0, -100.0])
    actual = function(teacher, jnp.zeros(5), 0.5)
    chex.assert_trees_all_close(actual, as_reward([0.5, 0.75, 0.25, 1.0, 0.0]), atol=1e-6)


def test_sigmoid_gate_matches_a_slow_loop():
    teacher, student = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    expected = [1 / (1 + np.exp(-(teacher[b] - student[b]) / 0.3)) for b in range(6)]
    chex.assert_trees_all_close(
        gates.sigmoid_gate(jnp.asarray(teacher), jnp.asarray(student), 0.3), as_reward(expected), rtol=1e-5
    )


@hypothesis.given(teacher=REWARDS, student=REWARDS, temperature=st.floats(0.01, 10))
@hypothesis.settings(deadline=None, max_examples=30)
def test_gates_are_bounded_and_monotone_in_the_gap(teacher, student, temperature):
    teacher, student = as_reward(teacher), as_reward(student)
    order = np.argsort(np.asarray(teacher - student))
    for function in (gates.sigmoid_gate, gates.hard_gate):
        gate = np.asarray(function(teacher, student, temperature))
        assert gate.shape == (4,) and np.all((gate >= 0) & (gate <= 1))
        assert np.all(np.diff(gate[order]) >= 0)
        permuted = function(teacher[::-1], student[::-1], temperature)
        chex.assert_trees_all_close(permuted, gate[::-1])


def test_a_larger_temperature_softens_the_gate():
    teacher, student = as_reward([1.0]), as_reward([0.0])
    soft, sharp = (gates.sigmoid_gate(teacher, student, temperature) for temperature in (2.0, 0.1))
    assert 0.5 < float(soft[0]) < float(sharp[0])


def test_hard_gate_closes_where_the_student_is_equal():
    actual = gates.hard_gate(as_reward([1.0, 0.0, -1.0]), jnp.zeros(3), 1.0)
    chex.assert_trees_all_equal(actual, as_reward([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_constant_gate_holds_its_value(value):
    actual = gates.constant_gate(as_reward([1.0, 2.0]), as_reward([3.0, -4.0]), 1.0, value=value)
    chex.assert_trees_all_equal(actual, jnp.full(2, value))


@pytest.mark.parametrize("name", ["sigmoid", "hard", "constant"])
def test_no_gradient_flows_through_a_gate(name):
    function = {
        "sigmoid": gates.sigmoid_gate,
        "hard": gates.hard_gate,
        "constant": lambda *arguments: gates.constant_gate(*arguments, value=0.5),
    }[name]
    arguments = (as_reward([0.1, 0.2]), as_reward([0.2, 0.1]), jnp.float32(0.5))
    gradients = jax.grad(lambda *x: jnp.sum(function(*x)), argnums=(0, 1, 2))(*arguments)
    chex.assert_trees_all_equal(gradients, jax.tree.map(jnp.zeros_like, arguments))


def test_misuse_is_rejected():
    reward = jnp.zeros(2)
    with pytest.raises(ValueError, match="gate_temperature is 0"):
        gates.sigmoid_gate(reward, reward, 0.0)
    with pytest.raises(ValueError, match="gate value is 1.5"):
        gates.constant_gate(reward, reward, 1.0, value=1.5)
    with pytest.raises(AssertionError):
        gates.sigmoid_gate(reward, jnp.zeros(3), 1.0)
