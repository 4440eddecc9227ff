"""Check of rewards: how well they tell real pictures from spoilt ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.pretraining.corrupt import Corruption
from rats_jax.types import Array, RewardModel
from rats_jax.weights.folder import write_json
from rats_jax.weights.stored import read_all

_ATTACK_STEPS, _ATTACK_STEP = 20, 2 / 255


def read_weights(rewards: Mapping[str, RewardModel]) -> dict[str, RewardModel]:
    """Read the weights of rewards from their files, once for all that they will score."""
    return {name: reward._replace(params=read_all(reward.params)) for name, reward in rewards.items()}


def mean_scores(
    rewards: Mapping[str, RewardModel], results: Array | np.ndarray, prompts: list[str]
) -> dict[str, float]:
    """Score pictures or videos with each of some rewards, whose weights are read, and average them."""
    return {
        name: float(np.mean(jax.jit(reward.reward_fn)(reward.params, results, reward.prepare(prompts))))
        for name, reward in rewards.items()
    }


def write_check(table: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """Write a table of scores by condition as JSON, and print it."""
    write_json(file, dict(table))
    width = max(map(len, table)) + 2
    for title, row in table.items():
        print(f"{title:<{width}}" + "".join(f"{name:>18} {value:7.3f}" for name, value in row.items()))


def score_spoilt(
    rewards: Mapping[str, RewardModel],
    images: np.ndarray,
    captions: Sequence[str],
    corruptions: Mapping[str, Corruption],
    *,
    attacked: str,
    severity: float,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Score pictures as they are, with another's caption, corrupted, and attacked.

    Args:
        rewards: by name; each is divided by its scale, so that the scores are cosines.
        images: [N, H, W, 3] float32 in [0, 1].
        captions: N.
        corruptions: by name.
        attacked: the reward whose gradient an attack follows, 20 sign steps of 2/255 towards the score of
            another's caption.
        severity: of all corruptions, in [0, 1].
        seed: of the corruptions.

    Returns:
        {condition: {reward: mean cosine}}, 'clean' first.
    """
    rewards = read_weights(rewards)
    pictures, severities = jnp.asarray(images), jnp.full(len(images), severity)
    right = {name: reward.prepare(list(captions)) for name, reward in rewards.items()}
    wrong = jax.tree.map(lambda x: np.roll(x, 1, axis=0), right)

    def mean_cosines(pictures: Array, prompt: Mapping[str, Any]) -> dict[str, float]:
        return {
            name: float(jnp.mean(jax.jit(reward.reward_fn)(reward.params, pictures, prompt[name])))
            / float(np.exp(reward.params["logit_scale"]))
            for name, reward in rewards.items()
        }

    target = rewards[attacked]

    @jax.jit
    def attack(params: Any, pictures: Array, prompt: Any) -> Array:
        def step(_: Any, x: Array) -> Array:
            slope = jax.grad(lambda x: jnp.sum(target.reward_fn(params, x, prompt)))(x)
            return jnp.clip(x + _ATTACK_STEP * jnp.sign(slope), 0.0, 1.0)

        return jax.lax.fori_loop(0, _ATTACK_STEPS, step, pictures)

    table = {"clean": mean_cosines(pictures, right), "caption of another": mean_cosines(pictures, wrong)}
    for i, (name, corrupt) in enumerate(corruptions.items()):
        key = jax.random.fold_in(jax.random.key(seed), i)
        table[name] = mean_cosines(jax.jit(corrupt)(key, pictures, severities), right)
    table[f"attacked on {attacked}"] = mean_cosines(attack(target.params, pictures, wrong[attacked]), wrong)
    return table
