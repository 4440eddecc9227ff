"""Reward-aware gates: how strongly the teacher still shapes each sample.

Every gate has one signature, (teacher_reward, student_reward, temperature) -> gate, so that RATS, reward-only
optimisation and static distillation differ in which one is passed.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from rats_jax.method.moments import mean, std
from rats_jax.types import Array, Moments

GateFn = Callable[[Array, Array, Moments], tuple[Array, Array]]
"""(teacher reward [B], student reward [B], moments of the gap) -> (gate [B] in [0, 1], temperature [])."""


def sigmoid_gate(teacher_reward: Array, student_reward: Array, temperature: Array | float) -> Array:
    """Open the gate smoothly where the teacher's reward is the higher one.

    g[b] = sigmoid((R_T[b] - R_S[b]) / tau), with tau = temperature: 1/2 where both are equal.

    Args:
        teacher_reward: R_T, [B] float32, higher is better.
        student_reward: R_S, [B] float32, on the same scale.
        temperature: tau, positive scalar in units of reward.

    Returns:
        gate, [B] float32 in [0, 1]; no gradient flows through it.

    Raises:
        ValueError: a Python number that is not positive as temperature.

    Source: Li et al., Reward-Aware Trajectory Shaping, arXiv 2604.14910, section 3.
    """
    _assert_rewards(teacher_reward, student_reward, temperature)
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise ValueError(f"gate_temperature is {temperature}, expected a positive number")
    # The paper's overview figure prints the opposite sign, 1 / (1 + exp((R_T - R_S) / tau)). Its abstract has
    # shaping strengthened when the teacher achieves higher rewards, and relaxed when the student matches or
    # surpasses it: the text decides.
    gate = jax.nn.sigmoid((teacher_reward - student_reward) / temperature)
    # A weight, not an objective: otherwise the student could close the gate to lower the loss.
    return jax.lax.stop_gradient(gate)


def hard_gate(teacher_reward: Array, student_reward: Array, temperature: Array | float) -> Array:
    """Open the gate fully where the teacher's reward is strictly higher, and close it elsewhere.

    g[b] = 1 if R_T[b] > R_S[b] else 0: the limit of `sigmoid_gate` for a temperature of 0.

    Args:
        teacher_reward: R_T, [B] float32, higher is better.
        student_reward: R_S, [B] float32, on the same scale.
        temperature: scalar; not read.

    Returns:
        gate, [B] float32, 0 or 1; a comparison has no gradient.

    Source: an ablation of this project.
    """
    _assert_rewards(teacher_reward, student_reward, temperature)
    return (teacher_reward > student_reward).astype(teacher_reward.dtype)


def constant_gate(
    teacher_reward: Array, student_reward: Array, temperature: Array | float, *, value: float
) -> Array:
    """Hold the gate at one value: 1 is static distillation, 0 is reward-only optimisation.

    Args:
        teacher_reward: [B] float32; only its shape is read.
        student_reward: [B] float32; not read.
        temperature: scalar; not read.
        value: the gate, in [0, 1].

    Returns:
        gate, [B] float32, equal to value; no gradient.

    Raises:
        ValueError: value outside [0, 1].

    Source: Li et al., Reward-Aware Trajectory Shaping, arXiv 2604.14910, the comparison figure.
    """
    _assert_rewards(teacher_reward, student_reward, temperature)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"gate value is {value}, expected a number in [0, 1]")
    return jnp.full(teacher_reward.shape, value, teacher_reward.dtype)


# A running standard deviation below this is taken for it: a gap that never varies must not divide by zero.
_MIN_GAP_STD = 1e-6


def make_gate_fn(
    gate: Callable[[Array, Array, Array | float], Array],
    *,
    temperature: float,
    relative: bool,
    of_mean: bool = False,
) -> GateFn:
    """Fix a gate's temperature, in units of the reward or of the running standard deviation of the gap.

    tau = temperature, or temperature * std(R_T - R_S) when relative: rewards differ by orders of magnitude.
    Where gaps differ more from sample to sample than their mean is from 0, gates of samples stay near their
    middle on average, whoever leads; one of the running mean says who leads.

    Args:
        gate: `sigmoid_gate`, `hard_gate` or `constant_gate` with its value bound.
        temperature: positive.
        relative: whether it is measured in standard deviations of the gap.
        of_mean: whether the gap is its running mean, the same for all samples, in place of each sample's own.

    Returns:
        (teacher_reward [B], student_reward [B], gap) -> (gate [B] in [0, 1], tau float32 scalar).

    Source: this project's choice; Li et al., arXiv 2604.14910, do not publish tau.
    """

    def gate_fn(teacher_reward: Array, student_reward: Array, gap: Moments) -> tuple[Array, Array]:
        tau = jnp.float32(temperature)
        if relative:
            tau = tau * std(gap, eps=_MIN_GAP_STD)
        if of_mean:
            student_reward = jnp.zeros_like(student_reward)
            teacher_reward = jnp.full_like(teacher_reward, mean(gap))
        return gate(teacher_reward, student_reward, tau), tau

    return gate_fn


def _assert_rewards(teacher_reward: Array, student_reward: Array, temperature: Array | float) -> None:
    chex.assert_rank([teacher_reward, student_reward, temperature], [1, 1, 0])
    chex.assert_equal_shape([teacher_reward, student_reward])
    chex.assert_type([teacher_reward, student_reward], float)
