"""Rewards of a config: each found by its kind, its weights checked and hardly read."""

from __future__ import annotations

from typing import Any

from rats_jax.errors import WeightsError, expect
from rats_jax.rewards import REWARDS
from rats_jax.rewards.base import Reward
from rats_jax.types import RewardModel


def open_rewards(config: Any, section: str, *, dtype: Any) -> dict[str, RewardModel]:
    """Open all rewards of the config's `rewards` or `monitor`, by name.

    Raises:
        ConfigError: a reward of no known kind, or weights that do not fit (WeightsError).
    """
    return {
        name: _open_reward(f"{section}.{name}", reward, dtype=dtype)
        for name, reward in sorted(config[section].items())
    }


def describe_rewards(config: Any, *, dtype: Any) -> dict[str, RewardModel]:
    """Learn the shapes of all rewards of the config's `rewards`; those that have a path are opened.

    Raises:
        ConfigError: as `open_rewards`.
    """
    return {
        name: _describe_reward(f"rewards.{name}", reward, dtype=dtype)
        for name, reward in sorted(config.rewards.items())
    }


def _describe_reward(field: str, reward: Any, *, dtype: Any) -> RewardModel:
    describe = _find_kind(field, reward.kind).describe
    if reward.path or describe is None:
        return _open_reward(field, reward, dtype=dtype)
    return describe(dtype=dtype)


def _open_reward(field: str, reward: Any, *, dtype: Any) -> RewardModel:
    kind = _find_kind(field, reward.kind)
    try:
        return kind.load(reward.path, dtype=dtype)
    except WeightsError as error:
        raise WeightsError(f"{field}: {error}") from None


def _find_kind(field: str, kind: str) -> Reward:
    expect(kind in REWARDS, f"{field}.kind", kind, f"one of {', '.join(sorted(REWARDS))}")
    return REWARDS[kind]
