"""Models that a config names: the pretrained pipeline and the rewards, found, checked and hardly read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from rats_jax.errors import expect
from rats_jax.paths import resolve_path
from rats_jax.pipelines.base import Pipeline, makes_videos
from rats_jax.pipelines.open import describe_pipeline, open_pipeline, options_of
from rats_jax.pipelines.stored_embeds import with_abstract_embeds, with_stored_embeds
from rats_jax.rewards.open import describe_rewards, expect_known_kinds, open_all_rewards
from rats_jax.types import RewardModel


@dataclass(frozen=True)
class Models:
    """What a run reads: the pretrained model, and its rewards by name, trained ones and monitored ones."""

    pipeline: Pipeline
    rewards: Mapping[str, RewardModel]
    monitors: Mapping[str, RewardModel]


def open_models(config: Any, device: Any = None) -> Models:
    """Find all that a config names, check that weights fit, and read few of them.

    Args:
        config: fields as in configs/default.py, already validated.
        device: that the networks will run on; None is the first one here.

    Returns:
        The models, with weights as NumPy arrays or StoredArray.

    Raises:
        ConfigError: a reward of no known kind, or weights that do not fit (WeightsError).
    """
    expect_known_kinds(config)
    dtype = jnp.dtype(config.compute_dtype)
    pipeline = open_pipeline(config.pretrained, dtype=dtype, device=device, options=options_of(config))
    _expect_no_pictures(pipeline, config)
    frames = judged_frames(pipeline, config.reward_frames)
    rewards, monitors = open_all_rewards(config, dtype=dtype, frames=frames)
    if config.prompt_embeds:
        folder = resolve_path(config.prompt_embeds)
        pipeline = with_stored_embeds(pipeline, folder, source=config.pretrained)
    return Models(pipeline, rewards, monitors)


def describe_models(config: Any, device: Any = None) -> Models:
    """Learn the shapes of all that a config names; published models need no file and no network.

    Args:
        config: fields as in configs/default.py, already validated.
        device: that the networks will run on, if only it were here.

    Returns:
        The models, with jax.ShapeDtypeStruct for weights and prompt inputs; rewards that have a path are
        opened. Nothing is monitored.

    Raises:
        ConfigError: as `open_models`.
    """
    expect_known_kinds(config)
    dtype = jnp.dtype(config.compute_dtype)
    options = options_of(config)
    pipeline = describe_pipeline(config.pretrained, dtype=dtype, device=device, options=options)
    _expect_no_pictures(pipeline, config)
    frames = judged_frames(pipeline, config.reward_frames)
    rewards = describe_rewards(config, dtype=dtype, frames=frames)
    return Models(with_abstract_embeds(pipeline) if config.prompt_embeds else pipeline, rewards, {})


def judged_frames(pipeline: Pipeline, count: int) -> int | None:
    """Say how many frames of what a pipeline makes its rewards judge, 0 for all; None where it is pictures.

    Raises:
        ConfigError: frames of pictures, or more than are decoded.
    """
    if not makes_videos(pipeline):
        expect(count == 0, "reward_frames", count, "0: this model makes pictures")
        return None
    most = pipeline.image_shape()[0]
    expect(
        count <= most, "reward_frames", count, f"at most {most}, the frames that are decoded, or 0 for all"
    )
    return count


def _expect_no_pictures(pipeline: Pipeline, config: Any) -> None:
    """Refuse parts of a run that know pictures alone, where it is of videos."""
    if not makes_videos(pipeline):
        return
    reference = config.reference
    expect(not reference, "reference", reference, "'': it has pictures, this model makes videos")
