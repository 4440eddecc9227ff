"""Accuracy of clips: what prompts ask for, and clips judged by it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.errors import ConfigError, WeightsError
from rats_jax.networks.tracker import Sighting, Tracker
from rats_jax.rewards import REWARDS
from rats_jax.rewards.tracker import MOTIONS, find_motion, make_accuracy_fn, parse_prompts
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
