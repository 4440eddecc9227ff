"""Stages of text-to-scene that train its rewards: the one that RATS climbs, by rounds, and the held-out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.pretraining.dual_encoder import Drawn
from rats_jax.pretraining.scenes import ANY_SIZES, NOTHING, WORLD_SIZES, render, render_with_extra, vary
from rats_jax.pretraining.scenes_data import all_prompts, count_things, draw_scenes, gather_data
from rats_jax.pretraining.stage import find_corruptions, is_done, train_reward
from rats_jax.types import Key


def reward_draft_stage(config: Any, workdir: Path) -> None:
    """Train the reward that RATS climbs, its first round: reward_draft/."""
    _train_reward(config, config.reward, workdir, "reward_draft", seed=config.seed + 20)


def reward_numbers_stage(config: Any, workdir: Path) -> None:
    """Go on with the reward that RATS climbs, as config.second_round says: reward_numbers/."""
    _go_on(config, config.second_round, workdir, "reward_draft", "reward_numbers", seed=config.seed + 21)


def reward_sizes_stage(config: Any, workdir: Path) -> None:
    """Go on with it, as config.third_round says: reward_sizes/."""
    _go_on(config, config.third_round, workdir, "reward_numbers", "reward_sizes", seed=config.seed + 22)


def reward_stage(config: Any, workdir: Path) -> None:
    """Go on with it once more, as config.fourth_round says: reward/."""
    _go_on(config, config.fourth_round, workdir, "reward_sizes", "reward", seed=config.seed + 23)


def heldout_reward_stage(config: Any, workdir: Path) -> None:
    """Train the reward that no training sees, of another seed, size and damage: heldout_reward/."""
    _train_reward(config, config.heldout_reward, workdir, "heldout_reward", seed=config.seed + 30)


def _go_on(config: Any, changes: Any, workdir: Path, start: str, name: str, *, seed: int) -> None:
    """Train a round of the reward with some settings changed, from the weights of the round before."""
    training = config.reward.copy_and_resolve_references()
    training.update(changes)
    _train_reward(config, training, workdir, name, start=workdir / start, seed=seed)


def _train_reward(
    config: Any, training: Any, workdir: Path, name: str, *, seed: int, start: Path | None = None
) -> None:
    if is_done(workdir / name / "config.json"):
        return
    num_nouns, sizes_of = len(config.nouns), ANY_SIZES if training.any_sizes else WORLD_SIZES

    def gather(ids: np.ndarray) -> Any:
        return gather_data(config, kinds=training.kinds) | {"ids": jnp.asarray(ids)}

    def draw(data: Any, keys: Key, batch_size: int) -> Drawn:
        key_scene, key_vary, key_wrong = jax.random.split(keys[1], 3)
        scene_keys = jnp.stack([keys[0], key_scene])
        images, objects, grounds, rows = draw_scenes(data, scene_keys, batch_size, sizes_of)
        named, share = data["colours"][rows], training.count_share
        others, elsewhere = vary(key_vary, objects, grounds, named, num_nouns, count_share=share)
        wrong = render(key_wrong, data["graphics"], others, elsewhere, sizes_of)
        if training.extra_share:
            key_extra, key_share = jax.random.split(jax.random.fold_in(keys[1], 0))
            pair = render_with_extra(key_extra, data["graphics"], objects, grounds, sizes_of)
            chosen = jax.random.bernoulli(key_share, training.extra_share, (batch_size, 1, 1, 1))
            images, wrong = jnp.where(chosen, pair[0], images), jnp.where(chosen, pair[1], wrong)
        counts = count_things(objects, num_nouns)
        fits = jnp.all(counts[:, None] == counts[None], axis=-1)
        fits &= (named[:, None] == NOTHING) | (named[:, None] == grounds[None])
        return Drawn(images, data["ids"][rows], wrong, fits)

    texts = all_prompts(config).texts
    corruptions = find_corruptions(training, workdir / "pipeline" / "vae")
    train_reward(config, training, workdir / name, texts, gather, draw, corruptions, seed=seed, start=start)
