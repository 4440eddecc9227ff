"""Rewards of a config: each found by its kind, its weights checked and hardly read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rats_jax.errors import WeightsError, expect
from rats_jax.rewards import Reward, find_reward
from rats_jax.rewards.frames import on_frames
from rats_jax.types import RewardModel


def expect_known_kinds(config: Any) -> None:
    """Check that every reward of the config is of a known kind, and that trained ones have a slope.

    Raises:
        ConfigError: names the first that is not, and the kinds that exist.
    """
    for section in ("rewards", "monitor"):
        for name, reward in config[section].items():
            field = f"{section}.{name}.kind"
            trainable = find_reward(reward["kind"], field).differentiable
            expected = f"a reward with a gradient; it has none, but monitor.{name} measures it"
            expect(trainable or section == "monitor", field, reward["kind"], expected)


def open_rewards(config: Any, section: str, *, dtype: Any, frames: int | None) -> dict[str, RewardModel]:
    """Open all rewards of a section of the config.

    Args:
        config: whose rewards are all of known kinds.
        section: `rewards` or `monitor`.
        dtype: compute dtype of the towers.
        frames: None, of a model of pictures; of videos, how many frames of each those rewards judge that are
            of pictures, 0 for all.

    Returns:
        By name.

    Raises:
        ConfigError: a reward of videos for a model of pictures.
        WeightsError: weights that do not fit.
    """
    return {
        name: _judging(f"{section}.{name}", reward, _load, dtype=dtype, frames=frames)
        for name, reward in sorted(config[section].items())
    }


def open_all_rewards(
    config: Any, *, dtype: Any, frames: int | None
) -> tuple[dict[str, RewardModel], dict[str, RewardModel]]:
    """Open trained and monitored rewards, all as of `open_rewards`; monitored ones judge whole videos."""
    trained = open_rewards(config, "rewards", dtype=dtype, frames=frames)
    return trained, open_rewards(config, "monitor", dtype=dtype, frames=None if frames is None else 0)


def describe_rewards(config: Any, *, dtype: Any, frames: int | None) -> dict[str, RewardModel]:
    """Learn the shapes of all rewards of the config's `rewards`; those that have a path are opened.

    Raises:
        ConfigError: as `open_rewards`.
    """
    return {
        name: _judging(f"rewards.{name}", reward, _describe, dtype=dtype, frames=frames)
        for name, reward in sorted(config.rewards.items())
    }


def _judging(
    field: str, chosen: Any, make: Callable[..., RewardModel], *, dtype: Any, frames: int | None
) -> RewardModel:
    """Make the reward that a config chooses, such that it judges what the model makes."""
    reward = find_reward(chosen.kind, f"{field}.kind")
    fits = frames is not None or not reward.of_videos
    expected = "a reward of pictures: this one is of videos, the model is not"
    expect(fits, f"{field}.kind", chosen.kind, expected)
    try:
        model = make(reward, chosen.path, dtype=dtype)
    except WeightsError as error:
        raise WeightsError(f"{field}: {error}") from None
    if frames is None or reward.of_videos:
        return model
    return model._replace(reward_fn=on_frames(model.reward_fn, frames))


def _load(reward: Reward, path: str, *, dtype: Any) -> RewardModel:
    return reward.load(path, dtype=dtype)


def _describe(reward: Reward, path: str, *, dtype: Any) -> RewardModel:
    if path or reward.describe is None:
        return reward.load(path, dtype=dtype)
    return reward.describe(dtype=dtype)
