"""Rewards of a config: each found by its kind, its weights checked and hardly read."""

from __future__ import annotations

from typing import Any

from rats_jax.errors import WeightsError, expect
from rats_jax.rewards import find_reward
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
    describe = find_reward(reward.kind, f"{field}.kind").describe
    if reward.path or describe is None:
        return _open_reward(field, reward, dtype=dtype)
    return describe(dtype=dtype)


def _open_reward(field: str, reward: Any, *, dtype: Any) -> RewardModel:
    try:
        return find_reward(reward.kind, f"{field}.kind").load(reward.path, dtype=dtype)
    except WeightsError as error:
        raise WeightsError(f"{field}: {error}") from None
