"""What a tracker sees in clips: whether it is what the prompt asks for, or how likely that is.

The first, accuracy, is no reward model and nothing to train on, as it has no gradient; the second has one.
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
from rats_jax.networks.tracker import Sighting, Tracker
from rats_jax.rewards.base import Reward
from rats_jax.rewards.judge import NAME, load_judge
from rats_jax.types import Array, Params, RewardFn, RewardModel

MOTIONS = ("left", "right", "up", "down", "larger", "smaller")
_OPEN = -1
_WORDS = {name: listed((), NAME) for name in ("nouns", "motions", "colours")}

# Shares of a frame's side from first to last frame: what moves goes so far at least, what does not goes no
# farther; of the logarithm of the size likewise.
_MOVES, _STAYS = 5 / 32, 3 / 32
_GROWS, _KEEPS = 0.4, 0.35
# Of row, column and size: what makes it less, and what makes it more.
_CHANGES = (("up", "down"), ("left", "right"), ("smaller", "larger"))
# By motion: 1 for what it makes more, -1 for what it makes less, 0 for what stays.
_WAYS = np.array([[(name == more) - (name == less) for less, more in _CHANGES] for name in MOTIONS])

# What costs nothing: a way or growth of so much at least, and of the others so much at most.
_WANTED, _ALLOWED = (10 / 32, 10 / 32, 0.7), (2 / 32, 2 / 32, 0.2)
_STILL = 3.0


class Asked(NamedTuple):
    """What prompts ask for, [B] int32 each.

    Attributes:
        things: place among the tracker's nouns.
        motions: place in `MOTIONS`.
        grounds: colour of the ground, -1 where it is open.
    """

    things: Any
    motions: Any
    grounds: Any


def parse_prompts(prompts: list[str], nouns: list[str], motions: list[str], colours: list[str]) -> Asked:
    """Read prompts such as 'a fish moves left', 'an owl grows on red'.

    Args:
        prompts: B texts.
        nouns: names of things.
        motions: what prompts call those of `MOTIONS`.
        colours: of grounds.

    Raises:
        ConfigError: a prompt that is none of those.
    """
    thing, motion, ground = ("|".join(map(re.escape, names)) for names in (nouns, motions, colours))
    form, rows = re.compile(f"an? ({thing}) ({motion})(?: on ({ground}))?"), []
    for prompt in prompts:
        match = form.fullmatch(prompt.strip().lower())
        if match is None:
            raise ConfigError(
                f"prompt {prompt!r}: expected what the tracker knows, such as 'a {nouns[0]} {motions[0]}' or "
                f"'a {nouns[-1]} {motions[-1]} on {colours[0]}'"
            )
        colour = _OPEN if match[3] is None else colours.index(match[3])
        rows.append((nouns.index(match[1]), motions.index(match[2]), colour))
    return Asked(*np.array(rows, np.int32).reshape(-1, 3).T)


def make_accuracy_fn(tracker: Tracker) -> RewardFn:
    """Make (weights, videos [B, T, H, W, 3] in [0, 1], Asked) -> [B] float32, 1 where all is right, else 0.

    The thing must be seen in all frames but one; its way and growth are those of the straight lines that
    fit its places and the logarithms of its sizes best.
    """

    def accuracy_fn(params: Params, videos: Array, prompt: Asked) -> Array:
        thing, ground, place = _look(tracker, params, videos)
        least = max(thing.shape[1] - 1, 1)
        named = jnp.sum(jnp.argmax(thing, axis=-1) == prompt.things[:, None], axis=1) >= least
        colour = jnp.argmax(ground.mean(axis=1), axis=-1)
        coloured = (prompt.grounds == _OPEN) | (colour == prompt.grounds)
        return jnp.float32(named & coloured & (find_motion(place) == prompt.motions))

    return accuracy_fn


def make_likelihood_fn(tracker: Tracker) -> RewardFn:
    """Make (weights, videos [B, T, H, W, 3] in [0, 1], Asked) -> [B] float32, log-likelihoods, at most 0.

    log p(thing), the mean over frames, + log p(ground), of all frames together, where the prompt names one,
    + what the motion lacks, or has that it should not, by the straight lines of `find_motion`: a thing that
    stands still costs `_STILL`. A clip that shows what is asked for earns nearly 0, and nothing beyond.
    """

    def likelihood_fn(params: Params, videos: Array, prompt: Asked) -> Array:
        thing, ground, place = _look(tracker, params, videos)
        rows = jnp.arange(thing.shape[0])
        named = jax.nn.log_softmax(thing)[rows, :, prompt.things].mean(axis=1)
        colour = jax.nn.log_softmax(ground.mean(axis=1))[rows, prompt.grounds]
        coloured = jnp.where(prompt.grounds == _OPEN, 0.0, colour)
        ways = jnp.asarray(_WAYS)[prompt.motions]
        change = measure_change(place)
        wanted, allowed = (jnp.array(values) for values in (_WANTED, _ALLOWED))
        lacks = jax.nn.relu(wanted - ways * change) / wanted
        exceeds = jax.nn.relu(jnp.abs(change) - allowed) / wanted
        moves = _STILL * jnp.sum(jnp.where(ways != 0, lacks, exceeds), axis=-1)
        return named + coloured - moves

    return likelihood_fn


def _look(tracker: Tracker, params: Params, videos: Array) -> Sighting:
    """Look at each frame of videos [B, T, H, W, 3]: what they show, [B, T, ...]."""
    frames = jnp.clip(videos, 0.0, 1.0).reshape(-1, *videos.shape[2:])
    seen: Any = tracker.apply({"params": params}, frames)
    return Sighting(*(part.reshape(*videos.shape[:2], -1) for part in seen))


def measure_change(place: Array) -> Array:
    """Fit lines to places [B, T, 3] as of `Sighting`: [B, 3], how far row, column and log size go."""
    time = np.linspace(-0.5, 0.5, place.shape[1])
    values = jnp.concatenate([place[..., :2], jnp.log(jnp.maximum(place[..., 2:], 1e-3))], axis=-1)
    return jnp.einsum("t,btd->bd", time / max(np.sum(time**2), 1e-6), values)


def find_motion(place: Array) -> Array:
    """Name the motions of things: places [B, T, 3] as of `Sighting` -> [B] of `MOTIONS`, -1 for none."""
    change = measure_change(place)
    most = jnp.array([_MOVES, _MOVES, _GROWS])
    least = jnp.array([_STAYS, _STAYS, _KEEPS])
    is_still = jnp.abs(change) <= least
    # One of the three changes, and the two others do not.
    others_still = jnp.sum(is_still, axis=1, keepdims=True) - is_still == 2
    changes = (jnp.abs(change) >= most) & others_still
    axis = jnp.argmax(changes, axis=1)
    is_more = jnp.take_along_axis(change, axis[:, None], axis=1)[:, 0] > 0
    names = jnp.array([[MOTIONS.index(name) for name in pair] for pair in _CHANGES])
    return jnp.where(jnp.any(changes, axis=1), names[axis, jnp.int32(is_more)], -1)


def load_tracker(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load a tracker as a judge of what clips show: 1 or 0, without a gradient.

    Args:
        path: folder with config.json and model.safetensors, the latter itself, or hub id; the config names
            things, motions and colours.
        dtype: not read: it computes in float32.

    Raises:
        WeightsError: files are missing or do not fit.
    """
    return _load(path, make_accuracy_fn)


def load_likelihood(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load a tracker as a reward, the likelihood of what the prompt asks for; all as of `load_tracker`."""
    return _load(path, make_likelihood_fn)


def _load(path: str, make_fn: Callable[[Tracker], RewardFn]) -> RewardModel:
    counts = {"nouns": "num_classes", "motions": len(MOTIONS), "colours": "num_grounds"}
    tracker, words, params = load_judge(path, "tracker", Tracker, _WORDS, counts)
    nouns, motions, colours = (list(words[name]) for name in _WORDS)
    return RewardModel(
        make_fn(tracker), params, lambda prompts: parse_prompts(prompts, nouns, motions, colours)
    )


TRACKER = Reward(load_tracker, describe=None, differentiable=False, of_videos=True)
TRACKER_LIKELIHOOD = Reward(load_likelihood, describe=None, of_videos=True)
