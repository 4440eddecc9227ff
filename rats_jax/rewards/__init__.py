"""Reward models: one file each, one line each in REWARDS, all with one signature, and all of them at once."""

from __future__ import annotations

from collections.abc import Mapping

from rats_jax.errors import expect
from rats_jax.rewards.aesthetic import AESTHETIC
from rats_jax.rewards.base import Reward, make_score_fn
from rats_jax.rewards.clipscore import CLIPSCORE
from rats_jax.rewards.colour_target import COLOUR_TARGET
from rats_jax.rewards.compressibility import COMPRESSIBILITY_PROXY
from rats_jax.rewards.detector import DETECTOR, DETECTOR_LIKELIHOOD
from rats_jax.rewards.hpsv2 import HPSV2_0, HPSV2_1
from rats_jax.rewards.imagereward import IMAGEREWARD
from rats_jax.rewards.own import is_own, load_own
from rats_jax.rewards.pickscore import PICKSCORE
from rats_jax.rewards.tracker import TRACKER, TRACKER_LIKELIHOOD
from rats_jax.rewards.viclip import VICLIP

__all__ = ["REWARDS", "Reward", "find_reward", "make_score_fn"]

REWARDS: Mapping[str, Reward] = {
    "aesthetic": AESTHETIC,
    "clipscore": CLIPSCORE,
    "colour_target": COLOUR_TARGET,
    "compressibility_proxy": COMPRESSIBILITY_PROXY,
    "detector": DETECTOR,
    "detector_likelihood": DETECTOR_LIKELIHOOD,
    "hpsv2.0": HPSV2_0,
    "hpsv2.1": HPSV2_1,
    "imagereward": IMAGEREWARD,
    "pickscore": PICKSCORE,
    "tracker": TRACKER,
    "tracker_likelihood": TRACKER_LIKELIHOOD,
    "viclip": VICLIP,
}
"""By the `kind` of a config."""


def find_reward(kind: str, field: str = "kind") -> Reward:
    """Find a reward by its kind: of `REWARDS`, or FILE.py:NAME.

    Args:
        kind: of a config or flag.
        field: that names it, for messages.

    Raises:
        ConfigError: there is none.
    """
    if is_own(kind):
        return load_own(kind, field)
    expect(kind in REWARDS, field, kind, f"one of {', '.join(sorted(REWARDS))}, or FILE.py:NAME")
    return REWARDS[kind]
