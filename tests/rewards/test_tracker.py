"""Accuracy of clips: what prompts ask for, and clips judged by it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.errors import ConfigError, WeightsError
from rats_jax.networks.tracker import Sighting, Tracker
from rats_jax.rewards import REWARDS
from rats_jax.rewards.tracker import (
    MOTIONS,
    find_motion,
    make_accuracy_fn,
    make_likelihood_fn,
    parse_prompts,
)
from rats_jax.weights.folder import CLIP_WEIGHTS, write_model
from tests.tiny import read_reward

NOUNS, COLOURS = ["cat", "ice cream"], ["red", "blue"]
PHRASES = ["moves left", "moves right", "moves up", "moves down", "grows", "shrinks"]
SIZES = {"image_size": 16, "num_classes": 2, "num_grounds": 2, "channels": [8, 16]}


def test_prompts_are_read():
    asked = parse_prompts(["a cat moves up", "An ice cream grows on blue "], NOUNS, PHRASES, COLOURS)
    assert [values.tolist() for values in asked] == [[0, 1], [2, 4], [-1, 1]]


@pytest.mark.parametrize(
    "prompt",
    ["", "a cat", "cat moves up", "a dog moves up", "a cat sleeps", "a cat grows on mars", "a cat grows on"],
)
def test_a_prompt_that_it_cannot_read_is_refused(prompt):
    expected = f"prompt {prompt!r}: expected what the tracker knows, such as 'a cat moves left' or "
    with pytest.raises(ConfigError) as caught:
        parse_prompts(["a cat grows", prompt], NOUNS, PHRASES, COLOURS)
    assert str(caught.value).startswith(expected)


def places(*, row=0.0, column=0.0, growth=0.0, frames=9):
    """Places of a thing that changes evenly by so much, as shares of the side."""
    time = jnp.linspace(0.0, 1.0, frames)[:, None]
    start = jnp.array([[0.5, 0.5, 0.0]])
    change = start + time * jnp.array([[row, column, growth]])
    return jnp.concatenate([change[:, :2], 0.3 * jnp.exp(change[:, 2:])], axis=1)[None]


@pytest.mark.parametrize(
    ("motion", "change"),
    [
        ("left", {"column": -0.2}),
        ("right", {"column": 0.2, "row": 0.05, "growth": -0.2}),
        ("up", {"row": -0.2}),
        ("down", {"row": 0.2}),
        ("larger", {"growth": 0.6}),
        ("smaller", {"growth": -0.6, "column": 0.05}),
        (None, {}),
        (None, {"column": 0.12}),  # not far enough
        (None, {"column": 0.2, "row": 0.2}),  # two at once
        (None, {"growth": 0.6, "column": 0.2}),
    ],
)
def test_motions_are_told_apart(motion, change):
    expected = -1 if motion is None else MOTIONS.index(motion)
    for frames in (2, 9):
        assert find_motion(places(**change, frames=frames)).tolist() == [expected]


def test_all_that_is_asked_for_must_be_right():
    class Seen:
        """Sees a cat on blue that moves left, and in some frames an ice cream."""

        def __init__(self, others):
            self.others = others

        def apply(self, variables, frames):
            things = jnp.where(jnp.arange(9) < self.others, 1, 0)
            return Sighting(
                jax.nn.one_hot(things, 3), jnp.tile(jnp.array([0.1, 0.9]), (9, 1)), places(column=-0.2)[0]
            )

    def judge(prompt, others=0):
        asked = parse_prompts([prompt], NOUNS, PHRASES, COLOURS)
        return float(make_accuracy_fn(Seen(others))({}, jnp.zeros((1, 9, 16, 16, 3)), asked)[0])

    assert judge("a cat moves left") == judge("a cat moves left on blue") == 1
    assert judge("a cat moves left", others=1) == 1 and judge("a cat moves left", others=2) == 0
    for other in ("a cat moves right", "a cat moves left on red", "an ice cream moves left"):
        assert judge(other) == 0


class Sees:
    """A tracker that sees a cat on blue, surely, where it is told that things are."""

    def __init__(self, place):
        self.place = place[0]

    def apply(self, variables, frames):
        thing, ground = (
            jnp.tile(jnp.array(values), (len(frames), 1)) for values in ([20.0, 0, 0], [0, 20.0])
        )
        return Sighting(thing, ground, self.place)


def likelihood(place, prompt):
    asked = parse_prompts([prompt], NOUNS, PHRASES, COLOURS)
    return make_likelihood_fn(Sees(place))({}, jnp.zeros((1, 9, 16, 16, 3)), asked)[0]


@pytest.mark.parametrize(
    ("motion", "change"),
    [
        ("moves left", {"column": -0.35}),
        ("moves right", {"column": 0.33}),
        ("moves up", {"row": -0.4}),
        ("moves down", {"row": 0.33, "growth": -0.1}),
        ("grows", {"growth": 0.75}),
        ("shrinks", {"growth": -0.75, "row": 0.05}),
    ],
)
def test_a_clip_that_shows_what_is_asked_for_is_likely(motion, change):
    seen = places(**change)
    assert find_motion(seen)[0] == PHRASES.index(motion)
    for ground in ("", " on blue"):
        np.testing.assert_allclose(likelihood(seen, f"a cat {motion}{ground}"), 0.0, atol=1e-5)
    for other in (f"an ice cream {motion}", f"a cat {motion} on red"):
        np.testing.assert_allclose(likelihood(seen, other), -20.0, atol=1e-5)
    others = [likelihood(seen, f"a cat {phrase}") for phrase in PHRASES if phrase != motion]
    assert max(others) < -3.0  # it lacks that one, and has another


def test_a_motion_is_as_likely_as_it_is_complete():
    half, still = (likelihood(places(column=way), "a cat moves left") for way in (-5 / 32, 0.0))
    np.testing.assert_allclose([half, still], [-1.5, -3.0], atol=1e-4)
    # Of what is not asked for 2 / 32 cost nothing.
    also = likelihood(places(column=-10 / 32, row=4 / 32), "a cat moves left")
    np.testing.assert_allclose(also, -3.0 * 2 / 10, atol=1e-4)
    slope = jax.grad(lambda way: likelihood(places(column=way), "a cat moves left"))(-0.1)
    np.testing.assert_allclose(slope, -3.0 * 32 / 10, rtol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge") / "judge"
    params = Tracker.from_config(SIZES).init_params(jax.random.key(0))
    words = {"nouns": NOUNS, "motions": PHRASES, "colours": COLOURS}
    write_model(folder, {"model_type": "tracker"} | SIZES | words, params, CLIP_WEIGHTS, dtype=np.float32)
    return folder


def test_it_loads_and_judges(folder):
    reward = REWARDS["tracker"]
    assert reward.of_videos and not reward.differentiable
    judge = read_reward(reward.load(str(folder)))
    clips = np.random.default_rng(0).uniform(size=(2, 5, 16, 16, 3)).astype(np.float32)
    seen = Tracker.from_config(SIZES).apply({"params": judge.params}, clips[0])
    assert seen.thing.shape == (5, 3) and seen.ground.shape == (5, 2) and seen.place.shape == (5, 3)
    assert np.all((np.asarray(seen.place) >= 0) & (np.asarray(seen.place) <= 1))
    accuracy = jax.jit(judge.reward_fn)(judge.params, clips, judge.prepare(["a cat grows", "a cat moves up"]))
    assert accuracy.shape == (2,) and set(np.asarray(accuracy).tolist()) <= {0.0, 1.0}


def test_it_loads_as_a_reward_with_a_slope(folder):
    kind = REWARDS["tracker_likelihood"]
    assert kind.of_videos and kind.differentiable
    reward = read_reward(kind.load(str(folder)))
    clips = np.random.default_rng(0).uniform(size=(2, 5, 16, 16, 3)).astype(np.float32)
    prompts = reward.prepare(["a cat grows", "a cat moves up on red"])
    score = jax.jit(reward.reward_fn)
    scores = score(reward.params, clips, prompts)
    assert np.all(scores < 0) and scores.dtype == jnp.float32
    swapped = score(reward.params, clips[::-1], jax.tree.map(lambda x: x[::-1], prompts))
    np.testing.assert_allclose(swapped[::-1], scores, rtol=1e-5)

    def total(clips):
        return jnp.sum(reward.reward_fn(reward.params, clips, prompts))

    for clip in (clips, np.full_like(clips, 0.5)):
        slope = jax.jit(jax.grad(total))(clip)
        assert np.isfinite(slope).all() and np.all(np.abs(slope).max(axis=(1, 2, 3, 4)) > 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "detector"}, "expected a tracker's, with nouns, motions, colours"),
        ({"num_classes": 4}, "num_classes=4: expected the 2 of nouns"),
        ({"num_grounds": 1}, "num_grounds=1: expected the 2 of colours"),
        ({"motions": PHRASES[:5]}, "5 motions: expected 6"),
        ({"nouns": ["cat", 3]}, "nouns"),
        ({"depth": 3}, "depth=3"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder, tmp_path, change, message):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    (tmp_path / CLIP_WEIGHTS).write_bytes((folder / CLIP_WEIGHTS).read_bytes())
    with pytest.raises(WeightsError) as caught:
        REWARDS["tracker"].load(str(tmp_path))
    assert message in str(caught.value) and "config.json" in str(caught.value)


def test_there_is_none_without_a_folder():
    with pytest.raises(WeightsError, match="^path='': expected the folder of a tracker"):
        REWARDS["tracker"].load("")
