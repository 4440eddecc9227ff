"""What prompts ask for, and pictures judged by it: accuracy, and the likelihood that has a slope."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.errors import ConfigError, WeightsError
from rats_jax.networks.detector import Detection, Detector
from rats_jax.rewards import REWARDS
from rats_jax.rewards.detector import make_accuracy_fn, make_likelihood_fn, parse_prompts
from rats_jax.weights.folder import CLIP_WEIGHTS, write_model
from tests.tiny import read_reward

NOUNS, COLOURS = [["cat", "cats"], ["apple", "apples"], ["ice cream", "ice creams"]], ["red", "blue"]
SIZES = {"image_size": 16, "num_classes": 3, "num_grounds": 2, "max_count": 3, "channels": [8, 16]}


def test_prompts_are_read():
    prompts = [
        "a cat",
        "Two apples on blue ",
        "an apple and three cats",
        "an ice cream and two cats on red",
    ]
    asked = parse_prompts(prompts, NOUNS, COLOURS, most=3)
    np.testing.assert_array_equal(asked.counts, [[1, 0, 0], [0, 2, 0], [3, 1, 0], [2, 0, 1]])
    np.testing.assert_array_equal(asked.grounds, [-1, 1, -1, 0])


@pytest.mark.parametrize(
    "prompt", ["", "a dog", "cats", "a cat on mars", "four cats", "a cat and", "a cat on"]
)
def test_a_prompt_that_it_cannot_read_is_refused(prompt):
    expected = f"prompt {prompt!r}: expected things that the detector knows, such as 'two cats' or "
    with pytest.raises(ConfigError) as caught:
        parse_prompts(["a cat", prompt], NOUNS, COLOURS, most=3)
    assert str(caught.value).startswith(expected)


def test_more_than_is_counted_is_refused():
    prompts = ["three cats", "two cats and two cats"]
    with pytest.raises(ConfigError, match="^prompt 'two cats and two cats': expected at most 3 of a thing"):
        parse_prompts(prompts, NOUNS, COLOURS, most=3)


def test_all_that_is_asked_for_must_be_right():
    class Seen:
        """Sees two cats on blue."""

        def apply(self, variables, images):
            counts = jax.nn.one_hot(jnp.asarray([[2, 0, 0]]), 4)
            return Detection(counts, jnp.asarray([[0.1, 0.9]]))

    asked = parse_prompts(
        ["two cats", "two cats on blue", "two cats on red", "a cat", "two cats and an apple"],
        NOUNS,
        COLOURS,
        most=3,
    )
    accuracy = make_accuracy_fn(Seen())({}, jnp.zeros((5, 16, 16, 3)), asked)
    assert accuracy.tolist() == [1, 1, 0, 0, 0] and accuracy.dtype == jnp.float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge") / "judge"
    params = Detector.from_config(SIZES).init_params(jax.random.key(0))
    words = {"nouns": NOUNS, "colours": COLOURS}
    write_model(folder, {"model_type": "detector"} | SIZES | words, params, CLIP_WEIGHTS, dtype=np.float32)
    return folder


def test_it_loads_and_judges(folder):
    judge = read_reward(REWARDS["detector"].load(str(folder)))
    prompts = ["a cat", "two apples on blue"]
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    seen = Detector.from_config(SIZES).apply({"params": judge.params}, images)
    assert seen.counts.shape == (2, 3, 4) and seen.ground.shape == (2, 2)
    assert np.ptp(np.asarray(seen.counts)) > 0.01
    accuracy = jax.jit(judge.reward_fn)(judge.params, images, judge.prepare(prompts))
    assert set(np.asarray(accuracy).tolist()) <= {0.0, 1.0}
    assert not REWARDS["detector"].differentiable


def test_the_likelihood_by_hand():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(4), size=(2, 3)), rng.dirichlet(np.ones(2), size=2)

    class Seen:
        def apply(self, variables, images):
            return Detection(*(jnp.log(jnp.asarray(chance)) + 7.0 for chance in chances))

    asked = parse_prompts(["two cats on blue", "a cat and three apples"], NOUNS, COLOURS, most=3)
    scores = make_likelihood_fn(Seen())({}, jnp.zeros((2, 16, 16, 3)), asked)
    counts, ground = chances
    expected = [
        counts[0, 0, 2] * counts[0, 1, 0] * counts[0, 2, 0] * ground[0, 1],
        counts[1, 0, 1] * counts[1, 1, 3] * counts[1, 2, 0],  # on any ground
    ]
    np.testing.assert_allclose(scores, np.log(expected), rtol=1e-5)


def test_it_loads_as_a_reward_with_a_slope(folder):
    kind = REWARDS["detector_likelihood"]
    assert kind.differentiable and not kind.of_videos
    reward = read_reward(kind.load(str(folder)))
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    prompts = reward.prepare(["a cat", "two apples on blue"])

    def total(images):
        scores = reward.reward_fn(reward.params, images, prompts)
        return jnp.sum(scores), scores

    slope, scores = jax.jit(jax.grad(total, has_aux=True))(images)
    assert np.all(scores < 0) and scores.dtype == jnp.float32
    assert np.isfinite(slope).all() and np.all(np.abs(slope).max(axis=(1, 2, 3)) > 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "clip"}, "expected a detector's, with nouns, colours"),
        ({"num_classes": 4}, "num_classes=4: expected the 3 of nouns"),
        ({"num_grounds": 1}, "num_grounds=1: expected the 2 of colours"),
        ({"channels": "many"}, "channels='many': expected"),
        ({"depth": 3}, "depth=3"),
        ({"nouns": 3}, "nouns=3: expected a list, each a list, each a text"),
        ({"nouns": [["cat"]]}, "nouns=[['cat']]: expected a list"),
        ({"colours": [1, 2]}, "colours=[1, 2]: expected a list, each a text"),
        ({"colours": None}, "colours=None: expected a list, each a text"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(folder, tmp_path, changes, message):
    config = json.loads((folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError) as caught:
        REWARDS["detector"].load(str(tmp_path))
    assert message in str(caught.value) and "config.json" in str(caught.value)


def test_there_is_no_published_one():
    with pytest.raises(WeightsError, match="^path='': expected the folder of a detector"):
        REWARDS["detector"].load("")
