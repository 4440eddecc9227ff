"""One update of toy networks against a slow NumPy loop."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.method.combine import normalised_sum
from rats_jax.method.gate import constant_gate, hard_gate, make_gate_fn, sigmoid_gate
from rats_jax.method.loss import hinge_reward
from tests.toy import (
    GAP,
    GUIDANCE,
    HORIZON_WEIGHTS,
    KEY,
    LEARNING_RATE,
    REWARD_WEIGHTS,
    STUDENT_ANGLES,
    TEACHER_ANGLES,
    TEMPERATURE,
    make_toy,
)

MARGIN = 0.1


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def slow_sample(params, noise, cond, uncond, angles, scale):
    """One picture, step by step: v-prediction, guidance and DDIM as their papers write them."""
    x, estimates = noise, []
    for angle, following in zip(angles, angles[1:], strict=False):
        outputs = [
            x @ params["kernel"] + int(600 * angle) / 1000 * params["time"] + embed @ params["prompt"]
            for embed in (uncond, cond)
        ]
        v = outputs[0] + scale * (outputs[1] - outputs[0])
        estimates.append(np.cos(angle) * x - np.sin(angle) * v)
        epsilon = np.sin(angle) * x + np.cos(angle) * v
        x = np.cos(following) * estimates[-1] + np.sin(following) * epsilon
    return x, estimates


def slow_interpolate(estimates, angle):
    """The teacher's estimate at sigma = tan(angle), linear in log sigma between its neighbours."""
    for i, upper in enumerate(TEACHER_ANGLES[:-1]):
        if upper == angle:
            return estimates[i]
        lower = TEACHER_ANGLES[i + 1]
        if upper > angle > lower:
            share = np.log(np.tan(angle) / np.tan(lower)) / np.log(np.tan(upper) / np.tan(lower))
            return share * estimates[i] + (1 - share) * estimates[i + 1]
    raise AssertionError(angle)


def slow_rewards(frozen, batch, b, latents):
    image, values = np.clip(latents @ frozen.decoder + 0.5, 0, 1), {}
    for name, weights in frozen.rewards.items():
        values[name] = -np.mean((image - batch.reward[name][b] @ weights) ** 2)
    return sum(REWARD_WEIGHTS[name] * values[name] for name in values), values, image


def slow_samples(student, teacher, frozen, batch, noise):
    """Each sample by itself: rewards and shaping loss."""
    rows = []
    for b in range(len(noise)):
        cond, uncond = batch.prompt[b] @ frozen.text_encoder["kernel"], frozen.text_encoder["empty"]
        final_t, estimates_t = slow_sample(teacher, noise[b], cond, uncond, TEACHER_ANGLES, GUIDANCE)
        final_s, estimates_s = slow_sample(student, noise[b], cond, uncond, STUDENT_ANGLES, 1.0)
        shape = 0.0
        for k, angle in enumerate(STUDENT_ANGLES[:-1]):
            s, t = estimates_s[k].ravel(), slow_interpolate(estimates_t, angle).ravel()
            cosine = s @ t / np.sqrt((s @ s) * (t @ t))
            shape += float(HORIZON_WEIGHTS[k]) * (1 - cosine + np.mean((s - t) ** 2))
        reward_t, by_name_t, _ = slow_rewards(frozen, batch, b, final_t)
        reward_s, by_name, image = slow_rewards(frozen, batch, b, final_s)
        rows.append({"teacher": reward_t, "student": reward_s, "shape": shape, "image": image} | by_name)
        rows[-1] |= {f"teacher {name}": value for name, value in by_name_t.items()}
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def slow_gradient(loss, params):
    gradient = jax.tree.map(np.zeros_like, params)
    for name, value in params.items():
        for index in np.ndindex(value.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = value.copy()
                moved[index] += step
                ends.append(loss(params | {name: moved}))
            gradient[name][index] = (ends[0] - ends[1]) / 2e-5
    return gradient


def slow_sigmoid(gap, moments):
    """Relative temperature: in standard deviations of the gap, this batch included."""
    std = np.sqrt(moments[1] / moments[2] - (moments[0] / moments[2]) ** 2)
    return 1 / (1 + np.exp(-gap / (TEMPERATURE * std))), TEMPERATURE * std


METHODS = {
    # name: (settings of make_update_fn, slow gate and temperature, slow loss of reward, shaping and gate)
    "rats": (
        {"gate_fn": make_gate_fn(sigmoid_gate, temperature=TEMPERATURE, relative=True)},
        slow_sigmoid,
        lambda reward, shape, gate: np.mean(-1.5 * reward + 0.8 * gate * shape),
    ),
    "gate of the mean gap": (
        {"gate_fn": make_gate_fn(sigmoid_gate, temperature=TEMPERATURE, relative=False, of_mean=True)},
        lambda gap, moments: (
            np.full_like(gap, 1 / (1 + np.exp(-moments[0] / moments[2] / TEMPERATURE))),
            TEMPERATURE,
        ),
        lambda reward, shape, gate: np.mean(-1.5 * reward + 0.8 * gate * shape),
    ),
    "hard gate and hinge": (
        {
            "gate_fn": make_gate_fn(hard_gate, temperature=TEMPERATURE, relative=False),
            "reward_loss_fn": functools.partial(hinge_reward, margin=MARGIN),
        },
        lambda gap, moments: (np.where(gap > 0, 1.0, 0.0), TEMPERATURE),
        lambda reward, shape, gate: np.mean(1.5 * np.maximum(MARGIN - reward, 0) + 0.8 * gate * shape),
    ),
    "static distillation": (
        {
            "reward_weight": 0.0,
            "gate_fn": make_gate_fn(
                functools.partial(constant_gate, value=1.0), temperature=TEMPERATURE, relative=False
            ),
        },
        lambda gap, moments: (np.ones_like(gap), TEMPERATURE),
        lambda reward, shape, gate: 0.8 * np.mean(shape),
    ),
    "reward-only": (
        {
            "gate_fn": make_gate_fn(
                functools.partial(constant_gate, value=0.0), temperature=TEMPERATURE, relative=False
            )
        },
        lambda gap, moments: (np.zeros_like(gap), TEMPERATURE),
        lambda reward, shape, gate: -1.5 * np.mean(reward),
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("jit", [False, True])
def test_the_whole_update_is_the_slow_loop(method, jit):
    settings, slow_gate, slow_loss = METHODS[method]
    update, state, frozen, batch = make_toy(**settings)
    new, metrics = (jax.jit(update) if jit else update)(state, frozen, batch, KEY)

    noise = float64(jax.random.normal(KEY, (4, 2, 2, 3)))
    student, teacher, frozen, batch = float64((state.student, state.teacher, frozen, batch))
    slow = slow_samples(student, teacher, frozen, batch, noise)
    gap = slow["teacher"] - slow["student"]
    observed = (np.mean(gap), np.mean(gap**2), 1.0)
    moments = [0.9 * old + 0.1 * new for old, new in zip(GAP, observed, strict=True)]
    gate, temperature = slow_gate(gap, moments)

    def loss(params):  # the gate and the teacher are constants of the gradient
        moved = slow_samples(params, teacher, frozen, batch, noise)
        return slow_loss(moved["student"], moved["shape"], gate)

    gradient = slow_gradient(loss, student)
    reward_loss = np.maximum(MARGIN - slow["student"], 0) if "hinge" in method else -slow["student"]
    expected = {
        "reward/student": slow["student"].mean(),
        "reward/teacher": slow["teacher"].mean(),
        "reward/gap": gap.mean(),
        "reward/student/first": slow["first"].mean(),
        "reward/student/second": slow["second"].mean(),
        "reward/teacher/first": slow["teacher first"].mean(),
        "reward/teacher/second": slow["teacher second"].mean(),
        "gate/mean": gate.mean(),
        "gate/gap": gap.mean(),
        "gate/temperature": temperature,
        "loss/reward": reward_loss.mean(),
        "loss/shape": slow["shape"].mean(),
        "loss/total": loss(student),
        "grad/norm": np.sqrt(sum(np.sum(g**2) for g in gradient.values())),
    }
    chex.assert_trees_all_close(metrics, jax.tree.map(np.float32, expected), rtol=2e-5, atol=1e-6)
    chex.assert_rank(list(metrics.values()), 0)
    chex.assert_type(list(metrics.values()), jnp.float32)
    stepped = jax.tree.map(lambda p, g: np.float32(p - LEARNING_RATE * g), student, gradient)
    chex.assert_trees_all_close(new.student, stepped, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(new.gap, moments, rtol=2e-5)
    assert int(new.step) == 4
    # The example is one where every part matters: pictures that clip in places, and gaps of both signs.
    clipped = np.mean((slow["image"] == 0) | (slow["image"] == 1))
    assert 0.05 < clipped < 0.95 and gap.min() < 0 < gap.max()


MOMENTS = {"first": (-0.05, 0.01, 0.4), "second": (-2.0, 9.0, 0.4)}


def slow_moments(name, slow):
    """The moments of a reward after this update, over teacher and student, and their deviation."""
    values = np.concatenate([slow[f"teacher {name}"], slow[name]])
    observed = (np.mean(values), np.mean(values**2), 1.0)
    moments = [0.9 * old + 0.1 * new for old, new in zip(MOMENTS[name], observed, strict=True)]
    return moments, np.sqrt(moments[1] / moments[2] - (moments[0] / moments[2]) ** 2)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_rewards_can_be_measured_in_their_own_deviations(accumulation_steps):
    combine_fn = functools.partial(normalised_sum, weights=REWARD_WEIGHTS)
    update, state, frozen, batch = make_toy(
        moments=MOMENTS, combine_fn=combine_fn, accumulation_steps=accumulation_steps
    )
    new, metrics = jax.jit(update)(state, frozen, batch, KEY)
    noise = float64(jax.random.normal(KEY, (4, 2, 2, 3)))
    slow = slow_samples(*float64((state.student, state.teacher, frozen, batch)), noise)
    for name in REWARD_WEIGHTS:
        np.testing.assert_allclose(new.rewards[name], slow_moments(name, slow)[0], rtol=2e-5)
    if accumulation_steps == 1:  # else each part is measured with its own
        for who, prefix in (("student", ""), ("teacher", "teacher ")):
            expected = sum(
                weight * slow[prefix + name].mean() / slow_moments(name, slow)[1]
                for name, weight in REWARD_WEIGHTS.items()
            )
            assert float(metrics[f"reward/{who}"]) == pytest.approx(expected, rel=1e-4)


def test_one_reward_alone_can_move_the_gate():
    update, state, frozen, batch = make_toy(gate_reward="second")
    new, metrics = jax.jit(update)(state, frozen, batch, KEY)
    noise = float64(jax.random.normal(KEY, (4, 2, 2, 3)))
    slow = slow_samples(*float64((state.student, state.teacher, frozen, batch)), noise)
    gap = slow["teacher second"] - slow["second"]
    assert float(metrics["gate/gap"]) == pytest.approx(gap.mean(), rel=1e-4)
    assert float(metrics["gate/mean"]) == pytest.approx(
        np.mean(1 / (1 + np.exp(-gap / TEMPERATURE))), rel=1e-4
    )
    assert float(metrics["reward/gap"]) == pytest.approx((slow["teacher"] - slow["student"]).mean(), rel=1e-4)
    np.testing.assert_allclose(new.gap.mean, 0.9 * GAP[0] + 0.1 * gap.mean(), rtol=1e-4)
