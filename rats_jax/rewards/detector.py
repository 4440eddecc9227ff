"""What a detector sees in a picture: whether it is all that the prompt asks for, or how likely that is.

The first, accuracy, is no reward model and nothing to train on, as it has no gradient; GenEval judges large
models like this. The second has one.

Source: Ghosh et al., GenEval, arXiv 2310.11513.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import ConfigError
from rats_jax.fields import listed
from rats_jax.networks.detector import Detector
from rats_jax.rewards.base import Reward
from rats_jax.rewards.judge import NAME, load_judge
from rats_jax.types import Array, Params, RewardFn, RewardModel

_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3}
_OPEN = -1
_WORDS = {
    "nouns": listed((), listed((), NAME, least=2)),
    "colours": listed((), NAME),
}


class Asked(NamedTuple):
    """What prompts ask for.

    Attributes:
        counts: [B, N] int32, how many of each thing.
        grounds: [B] int32, the colour of the ground, -1 where it is open.
    """

    counts: Any
    grounds: Any


def parse_prompts(prompts: list[str], nouns: list[list[str]], colours: list[str], *, most: int) -> Asked:
    """Read prompts such as 'two cats', 'a cat and an apple on red'.

    Args:
        prompts: B texts.
        nouns: N names of things, of one and of several.
        colours: of grounds.
        most: of one thing.

    Raises:
        ConfigError: a prompt that is none of those, or asks for more.
    """
    names = {name: i for i, forms in enumerate(nouns) for name in forms}
    counts = np.zeros((len(prompts), len(nouns)), np.int32)
    grounds = np.full(len(prompts), _OPEN, np.int32)
    for row, prompt in enumerate(prompts):
        things, _, colour = prompt.strip().lower().partition(" on ")
        phrases = [phrase.split(" ", 1) for phrase in re.split(r" and |, ", things)]
        known = all(len(p) == 2 and p[0] in _NUMBERS and p[1] in names for p in phrases)
        if not known or (colour and colour not in colours):
            raise ConfigError(
                f"prompt {prompt!r}: expected things that the detector knows, such as 'two {nouns[0][1]}' or "
                f"'a {nouns[0][0]} and a {nouns[-1][0]} on {colours[0]}'"
            )
        for number, name in phrases:
            counts[row, names[name]] += _NUMBERS[number]
        if counts[row].max() > most:
            raise ConfigError(f"prompt {prompt!r}: expected at most {most} of a thing, more are not counted")
        if colour:
            grounds[row] = colours.index(colour)
    return Asked(counts, grounds)


def make_accuracy_fn(detector: Detector) -> RewardFn:
    """Make (weights, images [B, H, W, 3] in [0, 1], Asked) -> [B] float32, 1 where all is right, else 0."""

    def accuracy_fn(params: Params, images: Array, prompt: Asked) -> Array:
        seen: Any = detector.apply({"params": params}, jnp.clip(images, 0.0, 1.0))
        counted = jnp.all(jnp.argmax(seen.counts, axis=-1) == prompt.counts, axis=-1)
        ground = (prompt.grounds == _OPEN) | (jnp.argmax(seen.ground, axis=-1) == prompt.grounds)
        return jnp.float32(counted & ground)

    return accuracy_fn


def make_likelihood_fn(detector: Detector) -> RewardFn:
    """Make (weights, images [B, H, W, 3] in [0, 1], Asked) -> [B] float32, log-likelihoods, at most 0.

    sum_n log p(how many of thing n) + log p(ground) where the prompt names one: a picture that shows what is
    asked for, and nothing else, earns nearly 0, and nothing beyond.
    """

    def likelihood_fn(params: Params, images: Array, prompt: Asked) -> Array:
        seen: Any = detector.apply({"params": params}, jnp.clip(images, 0.0, 1.0))
        rows = jnp.arange(images.shape[0])
        asked = jnp.asarray(prompt.counts)[..., None]
        counted = jnp.take_along_axis(jax.nn.log_softmax(seen.counts), asked, axis=-1)[..., 0]
        ground = jax.nn.log_softmax(seen.ground)[rows, prompt.grounds]
        return counted.sum(axis=-1) + jnp.where(prompt.grounds == _OPEN, 0.0, ground)

    return likelihood_fn


def load_detector(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load a detector as a judge of what pictures show: 1 or 0, without a gradient.

    Args:
        path: folder with config.json and model.safetensors, the latter itself, or hub id; the config names
            the things and the colours.
        dtype: not read: it computes in float32.

    Raises:
        WeightsError: files are missing or do not fit.
    """
    del dtype
    return _load(path, make_accuracy_fn)


def load_likelihood(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load a detector as a reward, the likelihood of what the prompt asks for; all as of `load_detector`."""
    del dtype
    return _load(path, make_likelihood_fn)


def _load(path: str, make_fn: Callable[[Detector], RewardFn]) -> RewardModel:
    counts = {"nouns": "num_classes", "colours": "num_grounds"}
    detector, words, params = load_judge(path, "detector", Detector, _WORDS, counts)
    return RewardModel(
        make_fn(detector),
        params,
        lambda prompts: parse_prompts(prompts, words["nouns"], words["colours"], most=detector.max_count),
    )


DETECTOR = Reward(load_detector, describe=None, differentiable=False)
DETECTOR_LIKELIHOOD = Reward(load_likelihood, describe=None)
