"""Rewards of a config: each found by its kind, its weights checked and hardly read."""

from __future__ import annotations

from typing import Any

from rats_jax.errors import WeightsError
from rats_jax.rewards import REWARDS
from rats_jax.types import RewardModel


def open_rewards(config: Any, section: str, *, dtype: Any) -> dict[str, RewardModel]:
    """Open all rewards of the config's `rewards` or `monitor`, all of known kinds, by name.

    Raises:
        WeightsError: weights that do not fit.
    """
    return {
        name: _open_reward(f"{section}.{name}", reward, dtype=dtype)
        for name, reward in sorted(config[section].items())
    }


def describe_rewards(config: Any, *, dtype: Any) -> dict[str, RewardModel]:
    """Learn the shapes of all rewards of the config's `rewards`; those that have a path are opened.

    Raises:
        WeightsError: as `open_rewards`.
    """
    return {
        name: _describe_reward(f"rewards.{name}", reward, dtype=dtype)
        for name, reward in sorted(config.rewards.items())
    }


def _describe_reward(field: str, reward: Any, *, dtype: Any) -> RewardModel:
    describe = REWARDS[reward.kind].describe
    if reward.path or describe is None:
        return _open_reward(field, reward, dtype=dtype)
    return describe(dtype=dtype)


def _open_reward(field: str, reward: Any, *, dtype: Any) -> RewardModel:
    try:
        return REWARDS[reward.kind].load(reward.path, dtype=dtype)
    except WeightsError as error:
        raise WeightsError(f"{field}: {error}") from None
