"""What every reward keeps: shape and dtype, gradients, independence of neighbours, low precision."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.errors import WeightsError
from rats_jax.rewards import REWARDS
from tests.tiny import read_reward

PROMPTS = ["a photo of a cat", "", "two red apples", "a dog"]
NO_WEIGHTS = ("colour_target", "compressibility_proxy")


@pytest.fixture
def reward(any_reward, load_pair):
    return read_reward(REWARDS[any_reward]("")) if any_reward in NO_WEIGHTS else load_pair(any_reward)[1]


def pictures(height=40, width=32):
    return jnp.asarray(np.random.default_rng(0).uniform(size=(4, height, width, 3)), jnp.float32)


def test_one_number_per_picture_whatever_its_neighbours(reward):
    images, prompt = pictures(), reward.prepare(PROMPTS)
    score = jax.jit(reward.reward_fn)
    scores = score(reward.params, images, prompt)
    chex.assert_shape(scores, (4,))
    chex.assert_type(scores, jnp.float32)
    order = np.array([2, 0, 3, 1])
    moved = score(reward.params, images[order], jax.tree.map(lambda x: x[order], prompt))
    chex.assert_trees_all_close(moved, scores[order], rtol=1e-5, atol=1e-5)
    assert np.ptp(np.asarray(scores)) > 1e-4


def test_a_step_along_the_gradient_raises_it_as_much_as_the_gradient_says(reward):
    images, prompt = pictures(), reward.prepare(PROMPTS)

    @jax.jit
    def total(x):
        return jnp.sum(reward.reward_fn(reward.params, x, prompt))

    slope = jax.jit(jax.grad(total))(images)
    scores = reward.reward_fn(reward.params, images, prompt)
    # CLIPScore is cut off at 0, where it has no slope.
    assert np.array_equal(np.any(np.asarray(slope) != 0, axis=(1, 2, 3)), scores != 0) and np.any(scores != 0)
    step = 1e-2 / float(jnp.linalg.norm(slope))
    expected = float(jnp.sum(jnp.square(slope)))
    measured = float(total(images + step * slope) - total(images - step * slope)) / (2 * step)
    assert measured == pytest.approx(expected, rel=0.05)


def test_gradients_are_finite_where_there_is_no_contrast(reward):
    flat = jnp.stack([jnp.full((32, 40, 3), value) for value in (0.0, 0.5, 1.0, 0.4578275)])
    gradient = jax.jit(jax.grad(lambda x, y: jnp.sum(reward.reward_fn(reward.params, x, y))))
    chex.assert_tree_all_finite(gradient(flat, reward.prepare(PROMPTS)))


def test_gradients_are_finite_where_an_embedding_is_zero(reward):
    """Weights of zero embed everything at the origin, where the length has no derivative."""
    images, prompt = pictures(), reward.prepare(PROMPTS)
    params = jax.tree.map(jnp.zeros_like, reward.params)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(reward.reward_fn(params, x, prompt))))
    chex.assert_tree_all_finite(gradient(images))


def test_prompts_are_prepared_once_and_row_by_row(reward):
    together = reward.prepare([*PROMPTS, PROMPTS[0]])
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[2:3], together), reward.prepare(PROMPTS[2:3]))
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x, i=i: x[i], together) for i in (0, 4)))


def test_towers_in_bfloat16_stay_close(original, load_folder, load_pair):
    low = read_reward(REWARDS[original.split(",")[0]](str(load_folder(original)), dtype=jnp.bfloat16))
    high = load_pair(original)[1]
    images, prompt = pictures(), high.prepare(PROMPTS)
    expected = np.asarray(jax.jit(high.reward_fn)(high.params, images, prompt))
    actual = jax.jit(low.reward_fn)(low.params, images, low.prepare(PROMPTS))
    chex.assert_type(actual, jnp.float32)
    assert np.max(np.abs(actual - expected)) < 0.1 * np.ptp(expected)
    assert np.any(np.asarray(actual) != expected)


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_a_path_is_refused_where_there_are_no_weights(kind):
    with pytest.raises(
        WeightsError, match=f"^path='weights': expected '', the reward '{kind}' has no weights$"
    ):
        REWARDS[kind]("weights")
