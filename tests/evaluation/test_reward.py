"""A reward as a function of pictures and prompts: the numbers of `score`, gradients, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rats_jax
from rats_jax.errors import ConfigError
from rats_jax.rewards import find_reward
from rats_jax.weights.stored import read_all

PROMPTS = ["black cat", "red apple"]
IMAGES = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
WEIGHTS = "assets/emoji/reward"


@pytest.fixture(scope="module")
def score():
    return rats_jax.load_reward("pickscore", WEIGHTS)


def test_it_scores_as_the_reward_that_training_climbs(score):
    model = find_reward("pickscore").load(WEIGHTS)
    expected = model.reward_fn(read_all(model.params), jnp.asarray(IMAGES), model.prepare(PROMPTS))
    np.testing.assert_allclose(score(IMAGES, PROMPTS), expected, rtol=1e-5)
    np.testing.assert_allclose(score(IMAGES[:1], PROMPTS[0]), expected[:1], rtol=1e-5)


def test_it_has_a_gradient_that_raises_it(score):
    slope = jax.grad(lambda images: score(images, PROMPTS).sum())(jnp.asarray(IMAGES))
    moved = jnp.clip(IMAGES + 0.01 * jnp.sign(slope), 0, 1)
    assert (score(moved, PROMPTS) > score(IMAGES, PROMPTS)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES[0], PROMPTS), r"^images\.shape=\(32, 32, 3\): expected \[B, H, W, 3\]$"),
        ((IMAGES[..., :1], PROMPTS), r"^images\.shape=\(2, 32, 32, 1\): expected \[B, H, W, 3\]$"),
        (((IMAGES * 255).astype(np.uint8), PROMPTS), r"^images\.dtype='uint8': expected floating-point"),
        ((IMAGES, PROMPTS[:1]), r"^len\(prompts\)=1: expected a text for each of the 2 pictures$"),
        ((IMAGES, 3), "^prompts=3: expected a text or a list of texts$"),
    ],
)
def test_what_a_call_gets_wrong_is_one_line(score, arguments, message):
    with pytest.raises(ConfigError, match=message):
        score(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "pickscor"}, "^kind='pickscor': expected one of aesthetic, "),
        ({"kind": "pickscore", "dtype": "float16"}, "^dtype='float16': expected 'float32' or 'bfloat16'$"),
        ({"kind": "pickscore", "path": "no/such/folder"}, "^path='no/such/folder': expected "),
    ],
)
def test_what_a_load_gets_wrong_is_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message):
        rats_jax.load_reward(**arguments)


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert dir(rats_jax) == ["__version__", "load", "load_reward"]
    with pytest.raises(AttributeError, match="^module 'rats_jax' has no attribute 'loads'$"):
        rats_jax.__getattr__("loads")
