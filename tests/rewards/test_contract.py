"""What every reward keeps: shape and dtype, gradients, independence of neighbours, low precision."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.errors import WeightsError
from rats_jax.rewards import REWARDS
from tests.rewards.conftest import NO_WEIGHTS, QUICKLY
from tests.tiny import read_reward

PROMPTS = ["a photo of a cat", "", "two red apples", "a dog"]


@pytest.fixture
def case(any_reward, load_case):
    return load_case(any_reward)


def pictures(case):
    return jnp.asarray(case.draw(4, 71, 45))


def test_one_number_per_picture_whatever_its_neighbours(case):
    images, prompt = pictures(case), case.reward.prepare(PROMPTS)
    scores, _ = case.score(case.reward.params, images, prompt)
    chex.assert_shape(scores, (4,))
    chex.assert_type(scores, jnp.float32)
    order = np.array([2, 0, 3, 1])
    moved, _ = case.score(case.reward.params, images[order], jax.tree.map(lambda x: x[order], prompt))
    chex.assert_trees_all_close(moved, scores[order], rtol=1e-5, atol=1e-5)
    assert np.ptp(np.asarray(scores)) > 1e-4


def test_a_step_along_the_gradient_raises_it_as_much_as_the_gradient_says(case):
    images, prompt = pictures(case), case.reward.prepare(PROMPTS)

    def total(images):
        return float(jnp.sum(case.score(case.reward.params, images, prompt)[0]))

    scores, slope = case.score(case.reward.params, images, prompt)
    # CLIPScore is cut off at 0, where it has no slope.
    assert np.array_equal(np.any(np.asarray(slope).reshape(4, -1) != 0, axis=1), scores != 0) and np.any(
        scores != 0
    )
    step = 1e-2 / float(jnp.linalg.norm(slope))
    expected = float(jnp.sum(jnp.square(slope)))
    measured = (total(images + step * slope) - total(images - step * slope)) / (2 * step)
    assert measured == pytest.approx(expected, rel=0.05)


def test_gradients_are_finite_where_there_is_no_contrast(case):
    shape = pictures(case).shape[1:]
    flat = jnp.stack([jnp.full(shape, value) for value in (0.0, 0.5, 1.0, 0.4578275)])
    chex.assert_tree_all_finite(case.score(case.reward.params, flat, case.reward.prepare(PROMPTS)))


def test_gradients_are_finite_where_an_embedding_is_zero(case):
    """Weights of zero embed everything at the origin, where the length has no derivative."""
    params = jax.tree.map(jnp.zeros_like, case.reward.params)
    chex.assert_tree_all_finite(case.score(params, pictures(case), case.reward.prepare(PROMPTS)))


def test_prompts_are_prepared_row_by_row(case):
    together = case.reward.prepare([*PROMPTS, PROMPTS[0]])
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[2:3], together), case.reward.prepare(PROMPTS[2:3]))
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x, i=i: x[i], together) for i in (0, 4)))


def test_towers_in_bfloat16_stay_close(original, load_folder, load_case):
    kind = original.split(",")[0]
    low = read_reward(REWARDS[kind].load(str(load_folder(original)), dtype=jnp.bfloat16))
    high = load_case(original)
    images, prompt = pictures(high), high.reward.prepare(PROMPTS)
    expected = np.asarray(high.score(high.reward.params, images, prompt)[0])
    actual = jax.jit(low.reward_fn, compiler_options=QUICKLY)(low.params, images, low.prepare(PROMPTS))
    chex.assert_type(actual, jnp.float32)
    assert np.max(np.abs(actual - expected)) < 0.1 * np.ptp(expected)
    assert np.any(np.asarray(actual) != expected)


def test_a_path_is_refused_where_there_are_no_weights():
    assert NO_WEIGHTS
    for kind in NO_WEIGHTS:
        message = f"^path='weights': expected '', the reward '{kind}' has no weights$"
        with pytest.raises(WeightsError, match=message):
            REWARDS[kind].load("weights")
