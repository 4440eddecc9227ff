"""Rewards of a config: each found by its kind, its weights checked and hardly read."""

from __future__ import annotations

import functools
from typing import Any

from rats_jax.errors import WeightsError, expect
from rats_jax.rewards import REWARDS
from rats_jax.rewards.full_size import FULL_SIZE
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
    rewards = {}
    for name, reward in sorted(config.rewards.items()):
        if reward.path or reward.kind not in FULL_SIZE:
            rewards[name] = _open_reward(f"rewards.{name}", reward, dtype=dtype)
        else:
            build = functools.partial(FULL_SIZE[reward.kind], dtype=dtype)
            reward_fn, params, _ = build(1)
            rewards[name] = RewardModel(reward_fn, params, lambda p, build=build: build(len(p))[2])
    return rewards


def _open_reward(field: str, reward: Any, *, dtype: Any) -> RewardModel:
    expect(reward.kind in REWARDS, f"{field}.kind", reward.kind, f"one of {', '.join(sorted(REWARDS))}")
    try:
        return REWARDS[reward.kind](reward.path, dtype=dtype)
    except WeightsError as error:
        raise WeightsError(f"{field}: {error}") from None
