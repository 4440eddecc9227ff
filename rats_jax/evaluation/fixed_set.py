"""Fixed prompts and noise: any model's pictures of them, and what every reward says of these."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.data.batches import filled_batches
from rats_jax.errors import expect
from rats_jax.method.combine import weighted_sum
from rats_jax.progress import tracked
from rats_jax.rewards import make_score_fn
from rats_jax.rewards.open import expect_known_kinds, open_all_rewards
from rats_jax.student.model import Generator
from rats_jax.types import RewardModel
from rats_jax.weights.stored import read_all

_MOST_PICTURES = 100_000  # of a contestant: they are in memory at once
SUM = "reward"
"""The name under which the trained sum stands among the scores."""


@dataclass(frozen=True)
class Contest:
    """What every contestant draws.

    Attributes:
        prompts: P texts.
        noise: [P, S, h, w, C] float32: S seeds of each.
    """

    prompts: list[str]
    noise: np.ndarray

    @property
    def texts(self) -> list[str]:
        """The prompt of each of the P * S pictures."""
        return [prompt for prompt in self.prompts for _ in range(self.noise.shape[1])]


def make_contest(
    prompts: Sequence[str], latent_shape: tuple[int, ...], *, num_prompts: int, num_seeds: int, seed: int
) -> Contest:
    """Choose prompts and noise.

    Args:
        prompts: those to choose from, each once however often it stands there; if there are fewer than
            num_prompts, all are taken.
        latent_shape: (h, w, C).
        num_prompts: P.
        num_seeds: S.
        seed: of both choices, 0 .. 2**32 - 1.

    Raises:
        ConfigError: more than 100,000 pictures.
    """
    prompts = list(dict.fromkeys(prompts))  # pictures of one prompt are alike: a bootstrap draws prompts
    order = np.random.default_rng(seed).permutation(len(prompts))[:num_prompts]
    most = f"at most {_MOST_PICTURES // len(order)}: {_MOST_PICTURES} pictures of {len(order)} prompts"
    expect(len(order) * num_seeds <= _MOST_PICTURES, "seeds", num_seeds, most)
    shape = (len(order), num_seeds, *latent_shape)
    noise = jax.random.normal(jax.random.key(seed), shape, jnp.float32)
    return Contest([prompts[int(i)] for i in order], np.asarray(noise))


def draw(
    model: Generator,
    contest: Contest,
    *,
    num_steps: int,
    guidance_scale: float,
    batch_size: int,
    title: str = "",
) -> np.ndarray:
    """Draw every prompt from every noise.

    Args:
        model: the contestant.
        contest: prompts and noise.
        num_steps, guidance_scale: of its sampler.
        batch_size: pictures at once; the last batch is filled up.
        title: of the progress bar; empty for none.

    Returns:
        [P, S, H, W, 3] float32 in [0, 1], or videos [P, S, T, H, W, 3].
    """
    texts = contest.texts
    noise = contest.noise.reshape(len(texts), *contest.noise.shape[2:])
    parts = []
    batches = list(filled_batches(len(texts), batch_size))
    for rows, kept in tracked(batches, title=title, unit="batch", leave=False, shown=bool(title)):
        images = model(
            [texts[i] for i in rows], num_steps=num_steps, latents=noise[rows], guidance_scale=guidance_scale
        )
        parts.append(images[kept])
    images = np.concatenate(parts)
    return images.reshape(*contest.noise.shape[:2], *images.shape[1:])


@dataclass(frozen=True)
class Judges:
    """The rewards of a run, their weights on the devices.

    Attributes:
        rewards: by name, trained ones and monitored ones.
        weights: of the trained ones, in the sum.
        score: (params, images, prompt inputs) -> [B] by name, jitted.
        params: by name.
    """

    rewards: Mapping[str, RewardModel]
    weights: Mapping[str, float]
    score: Any
    params: Any

    def only(self, names: Collection[str]) -> Judges:
        """Take the rewards of some names; without the sum if one that it is of is left out."""
        rewards = {name: reward for name, reward in self.rewards.items() if name in names}
        weights = self.weights if set(self.weights) <= set(names) else {}
        return Judges(rewards, weights, _jit_scores(rewards), {name: self.params[name] for name in rewards})


def _jit_scores(rewards: Mapping[str, RewardModel]) -> Any:
    return jax.jit(make_score_fn({name: reward.reward_fn for name, reward in rewards.items()}))


def open_judges(config: Any, *, videos: bool = False) -> Judges:
    """Load the rewards of a config, in float32.

    Of videos trained rewards of pictures judge `reward_frames` each, monitored ones all.

    Raises:
        ConfigError: a reward of no known kind, or weights that do not fit.
    """
    expect_known_kinds(config)
    frames = config.reward_frames if videos else None
    trained, monitors = open_all_rewards(config, dtype=jnp.float32, frames=frames)
    rewards = trained | monitors
    params = jax.device_put(read_all({name: reward.params for name, reward in rewards.items()}))
    # In units of running deviations that only the run knows, a sum of several could not be told again.
    weights = {} if config.normalise_rewards else {name: config.rewards[name].weight for name in trained}
    return Judges(rewards, weights, _jit_scores(rewards), params)


def judge(judges: Judges, contest: Contest, images: np.ndarray, *, batch_size: int) -> dict[str, np.ndarray]:
    """Score pictures with every reward.

    Args:
        judges: from `open_judges`.
        contest: whose prompts they are of.
        images: [P, S, H, W, 3] float32 in [0, 1], or videos [P, S, T, H, W, 3].
        batch_size: pictures at once.

    Returns:
        [P, S] float32 by name; SUM is the trained sum, if its rewards are not normalised.
    """
    texts, flat = contest.texts, images.reshape(-1, *images.shape[2:])
    prompts = {name: reward.prepare(texts) for name, reward in judges.rewards.items()}
    parts = []
    for rows, kept in filled_batches(len(texts), batch_size):
        prompt = jax.tree.map(lambda x, rows=rows: x[rows], prompts)
        scores = judges.score(judges.params, flat[rows], prompt)
        parts.append({name: np.asarray(s)[kept] for name, s in scores.items()})
    scores: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in judges.rewards}
    if judges.weights:
        scores = {SUM: np.asarray(weighted_sum(scores, {}, weights=judges.weights)), **scores}
    return {name: values.reshape(images.shape[:2]) for name, values in scores.items()}
