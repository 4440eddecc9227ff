"""What holds of an update whatever the networks: gradients, teacher, accumulation, order, key, devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.method.update import with_teacher
from rats_jax.parallel.mesh import make_mesh
from rats_jax.parallel.placement import batch_sharding, param_sharding
from tests.tiny import mesh_sizes
from tests.toy import KEY, REWARD_WEIGHTS, make_toy, make_toy_parts, run


def test_nothing_but_the_student_has_a_gradient():
    update, state, frozen, batch = make_toy()

    @jax.jit
    @jax.grad
    def gradients(params):
        student, teacher, frozen = params
        metrics = update(state.replace(student=student, teacher=teacher), frozen, batch, KEY)[1]
        return sum(metrics[name] for name in ("loss/total", "reward/teacher", "reward/gap", "loss/shape"))

    student, *others = gradients((state.student, state.teacher, frozen))
    chex.assert_trees_all_equal(others, jax.tree.map(jnp.zeros_like, others))
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(student))


@pytest.mark.parametrize("reward_weight", [1.0, float("inf")])
def test_a_frozen_teacher_stays_bit_for_bit(reward_weight):
    """Also when the student diverges: 0 times infinity is not 0."""
    new, _ = run(ema_decay=1.0, reward_weight=reward_weight)
    chex.assert_trees_all_equal(new.teacher, make_toy()[1].teacher)
    assert np.all(np.isfinite(new.student["kernel"])) == np.isfinite(reward_weight)


def test_a_moving_teacher_follows_the_new_student():
    new, _ = run(ema_decay=0.75)
    expected = jax.tree.map(lambda t, s: 0.75 * t + 0.25 * s, make_toy()[1].teacher, new.student)
    chex.assert_trees_all_close(new.teacher, expected, rtol=1e-6)


def test_a_moving_teacher_can_stand_still_between_its_steps():
    update, state, frozen, batch = make_toy(ema_decay=0.75, ema_every=2)
    state, update = state.replace(step=jnp.zeros((), jnp.int32)), jax.jit(update)
    first, _ = update(state, frozen, batch, KEY)
    chex.assert_trees_all_equal(first.teacher, state.teacher)
    second, _ = update(first, frozen, batch, KEY)
    expected = jax.tree.map(lambda t, s: 0.75 * t + 0.25 * s, first.teacher, second.student)
    chex.assert_trees_all_close(second.teacher, expected, rtol=1e-6)


def test_an_average_of_the_student_is_drawn_and_changes_nothing_else():
    plain, metrics = run()
    new, same = run(average_decay=0.75)
    chex.assert_trees_all_equal((new.replace(average={}), same), (plain, metrics))
    before = make_toy(average_decay=0.75)[1].average
    expected = jax.tree.map(lambda a, s: 0.75 * a + 0.25 * s, before, new.student)
    chex.assert_trees_all_close(new.average, expected, rtol=1e-6)
    assert new.drawn is new.average and plain.drawn is plain.student


@pytest.mark.parametrize("accumulation_steps", [2, 4])
def test_accumulation_changes_nothing_but_the_memory(accumulation_steps):
    changes = {"batch_size": 8, "ema_decay": 0.75}
    whole, parts = run(**changes), run(**changes, accumulation_steps=accumulation_steps)
    chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_the_order_of_prompts_and_noise_does_not_matter():
    order = np.array([3, 0, 2, 1])
    update, state, frozen, batch = make_toy(permutation=order)
    permuted = jax.jit(update)(state, frozen, jax.tree.map(lambda x: x[order], batch), KEY)
    chex.assert_trees_all_close(permuted, run(), rtol=1e-5, atol=1e-6)


def test_the_key_alone_decides_the_noise():
    update, *arguments = make_toy()
    update = jax.jit(update)
    first = update(*arguments, KEY)
    chex.assert_trees_all_equal(update(*arguments, jax.random.key(7)), first)
    other = update(*arguments, jax.random.key(8))
    assert all(
        first[1][name] != other[1][name] for name in ("reward/teacher", "reward/student", "loss/shape")
    )


def test_one_trace_serves_all_updates_and_the_state_is_donated():
    chex.clear_trace_counter()
    update, state, frozen, batch = make_toy(ema_decay=0.9)
    update = jax.jit(chex.assert_max_traces(update, n=1), donate_argnums=0)
    for step in range(4):
        old = state
        state, _ = update(state, frozen, batch, jax.random.fold_in(KEY, step))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert int(state.step) == 7
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((state, frozen, batch)))


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (2, 4)])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_eight_devices_are_one_device(data, fsdp, accumulation_steps):
    changes = {"latent_shape": (1, 1, 264), "batch_size": 16, "ema_decay": 0.75}
    update, state, frozen, batch = make_toy(**changes, accumulation_steps=accumulation_steps)
    expected = jax.device_get(jax.jit(update)(state, frozen, batch, KEY))

    mesh = make_mesh(mesh_sizes(data=data, fsdp=fsdp))
    rules = [("", "largest")]
    layout = (param_sharding(mesh, state, rules), param_sharding(mesh, frozen, rules), batch_sharding(mesh))
    placed = tuple(jax.device_put(x, s) for x, s in zip((state, frozen, batch), layout, strict=True))
    sharded = jax.jit(update, in_shardings=(*layout, None), out_shardings=(layout[0], None), donate_argnums=0)
    new, metrics = sharded(*placed, KEY)
    assert new.student["kernel"].addressable_shards[0].data.shape == (264 // fsdp, 264)
    assert len(new.student["kernel"].sharding.device_set) == 8
    chex.assert_trees_all_close(jax.device_get((new, metrics)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_targets_of_the_teacher_make_the_same_update_without_it(accumulation_steps):
    teach, update, state, frozen, batch = make_toy_parts(accumulation_steps=accumulation_steps)
    targets = teach(state.teacher, frozen, batch, KEY)
    assert targets.denoised.shape == (4, 3, 2, 2, 3) and set(targets.scores) == set(REWARD_WEIGHTS)
    expected, metrics = jax.jit(with_teacher(update, teach))(state, frozen, batch, KEY)
    blind = state.replace(teacher=jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.teacher))
    new, same = jax.jit(update)(blind, frozen, batch, KEY, targets)
    chex.assert_trees_all_close(new.student, expected.student, rtol=1e-6)
    chex.assert_trees_all_close(same, metrics, rtol=1e-5)


def test_targets_belong_to_their_key():
    teach, update, state, frozen, batch = make_toy_parts()
    wrong_key, update = jax.random.key(8), jax.jit(update)
    losses = [
        update(state, frozen, batch, KEY, teach(state.teacher, frozen, batch, key))[1]["loss/shape"]
        for key in (KEY, wrong_key)
    ]
    assert abs(float(losses[0] - losses[1])) > 1e-3


def test_targets_have_no_gradient():
    teach, update, state, frozen, batch = make_toy_parts()
    targets = teach(state.teacher, frozen, batch, KEY)
    gradient = jax.grad(lambda t: update(state, frozen, batch, KEY, t)[1]["loss/total"])(targets)
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))


@pytest.mark.parametrize("latent_shape", [(4, 3), (2, 1, 2, 3)], ids=["tokens", "video"])
def test_samples_of_any_rank_make_the_same_update(latent_shape):
    """The toy network sees each position by itself, so only the shape of the samples differs."""
    chex.assert_trees_all_close(run(latent_shape=latent_shape), run(), rtol=1e-5, atol=1e-6)
