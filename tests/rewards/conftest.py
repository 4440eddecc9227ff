"""Every reward, with weights from the file of its original in PyTorch where it has weights.

The test file of a reward with weights names its originals in ORIGINALS: by name, the kind of the reward and a
function that writes the original's weights into a folder and gives images [B, 3, H, W], or videos
[B, T, 3, H, W], -> scores [B] of tests.originals.PROMPTS. Nothing else needs to know of them.
"""

import functools
import importlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rats_jax.rewards import REWARDS
from rats_jax.types import RewardModel
from tests.tiny import read_reward

# A program runs a few times on small pictures: what takes time is to compile it.
QUICKLY = {"xla_backend_optimization_level": 0}

# What detectors and trackers see is read in prompts and weights of their own: see their own tests.
NO_WEIGHTS = [
    kind
    for kind, reward in REWARDS.items()
    if reward.describe is None and reward.differentiable and not kind.endswith("_likelihood")
]


class Case(NamedTuple):
    """A reward, its original, and the compiled (params, images, prompt inputs) -> scores and their slope."""

    reward: RewardModel
    score: Any
    original: Any = None
    of_videos: bool = False

    def draw(self, *shape):
        """Draw pictures [*shape, 3], or for a reward of videos such with 6 frames, all of them different."""
        shape = (shape[0], 6, *shape[1:]) if self.of_videos else shape
        return np.random.default_rng(0).uniform(size=(*shape, 3)).astype(np.float32)


@functools.cache
def find_originals():
    """Collect ORIGINALS of all test files of rewards."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        found |= getattr(importlib.import_module(f"tests.rewards.{file.stem}"), "ORIGINALS", {})
    return found


def compile_score(reward_fn):
    """Give scores [B] and the slope of their sum, both of one program for each shape of pictures."""

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(params, images, prompt):
        def total(images):
            scores = reward_fn(params, images, prompt)
            return jnp.sum(scores), scores

        slope, scores = jax.grad(total, has_aux=True)(images)
        return scores, slope

    return run


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """By name: the folder of a reward's weights, and its original as a function of images [B, 3, H, W]."""

    @functools.cache
    def write(name):
        folder = tmp_path_factory.mktemp("original")
        torch.manual_seed(0)
        return folder, find_originals()[name][1](folder)

    return write


@pytest.fixture(scope="session")
def load_folder(written):
    """By name: the folder of a reward's weights."""
    return lambda name: written(name)[0]


@pytest.fixture(scope="session")
def load_case(written):
    """By name of an original, or by the kind of a reward without weights: the reward, read and compiled."""

    @functools.cache
    def load(name):
        if name not in find_originals():
            reward = REWARDS[name].load("")
            return Case(reward, compile_score(reward.reward_fn))
        folder, original = written(name)
        kind = REWARDS[find_originals()[name][0]]
        reward = read_reward(kind.load(str(folder)))
        return Case(reward, compile_score(reward.reward_fn), original, kind.of_videos)

    return load


def pytest_generate_tests(metafunc):
    """Run a test that asks for an `original` once for each, and for `any_reward` once for each reward too."""
    if "original" in metafunc.fixturenames:
        metafunc.parametrize("original", find_originals())
    if "any_reward" in metafunc.fixturenames:
        metafunc.parametrize("any_reward", [*find_originals(), *NO_WEIGHTS])
