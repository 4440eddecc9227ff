"""Rewards of a config: each found by its kind, its weights checked and hardly read."""

from __future__ import annotations

from typing import Any

from rats_jax.errors import WeightsError
from rats_jax.rewards import REWARDS
from rats_jax.types import RewardModel


def open_rewards(config: Any, section: str, *, dtype: Any) -> dict[str, RewardModel]:
    """Open all rewards of the config's `rewards` or `monitor`, by name.

    Raises:
        ConfigError: weights that do not fit (WeightsError).
    """
    return {
        name: open_reward(f"{section}.{name}", reward, dtype=dtype)
        for name, reward in sorted(config[section].items())
    }


def open_reward(field: str, reward: Any, *, dtype: Any) -> RewardModel:
    try:
        return REWARDS[reward.kind](reward.path, dtype=dtype)
    except WeightsError as error:
        raise WeightsError(f"{field}: {error}") from None
