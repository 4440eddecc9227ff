"""Reward models: one file each, one line each in REWARDS, all with one signature, and all of them at once."""

from __future__ import annotations

from collections.abc import Mapping

from rats_jax.rewards.aesthetic import AESTHETIC
from rats_jax.rewards.base import Reward, make_score_fn
from rats_jax.rewards.clipscore import CLIPSCORE
from rats_jax.rewards.colour_target import COLOUR_TARGET
from rats_jax.rewards.compressibility import COMPRESSIBILITY_PROXY
from rats_jax.rewards.detector import DETECTOR
from rats_jax.rewards.hpsv2 import HPSV2_0, HPSV2_1
from rats_jax.rewards.imagereward import IMAGEREWARD
from rats_jax.rewards.pickscore import PICKSCORE
from rats_jax.rewards.viclip import VICLIP

__all__ = ["REWARDS", "Reward", "make_score_fn", "trainable_kinds"]

REWARDS: Mapping[str, Reward] = {
    "aesthetic": AESTHETIC,
    "clipscore": CLIPSCORE,
    "colour_target": COLOUR_TARGET,
    "compressibility_proxy": COMPRESSIBILITY_PROXY,
    "detector": DETECTOR,
    "hpsv2.0": HPSV2_0,
    "hpsv2.1": HPSV2_1,
    "imagereward": IMAGEREWARD,
    "pickscore": PICKSCORE,
    "viclip": VICLIP,
}
"""By the `kind` of a config."""


def trainable_kinds() -> dict[str, bool]:
    """Tell of every kind whether a run can be trained on it."""
    return {kind: reward.differentiable for kind, reward in REWARDS.items()}
