"""Contracts of the update: the functions that it is composed of, and those that it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rats_jax.diffusion.draw import RolloutFn
from rats_jax.method.combine import CombineFn
from rats_jax.method.gate import GateFn
from rats_jax.types import (
    Array,
    Batch,
    DecodeFn,
    EncodeFn,
    FrozenParams,
    Key,
    Params,
    ScoreFn,
    Targets,
    TrainState,
)

Metrics = dict[str, Array]
"""Of a loss [B] each or scalars, of an update float32 scalars, by name."""
ParamsFn = Callable[[Params, Params], Params]
"""(FrozenParams.base, TrainState.student or .teacher) -> the params of a rollout."""
NoiseFn = Callable[[Key, Batch], Array]
"""(key, batch) -> standard normal noise [B, ...] float32, laid out as the batch is."""
TeachFn = Callable[[Params, FrozenParams, Batch, Key], Targets]
"""(TrainState.teacher, frozen, batch, key) -> Targets."""
UpdateFn = Callable[[TrainState, FrozenParams, Batch, Key], tuple[TrainState, Metrics]]
"""(state, frozen, batch, key) -> (state, metrics)."""
TargetsUpdateFn = Callable[[TrainState, FrozenParams, Batch, Key, Targets], tuple[TrainState, Metrics]]
"""(state, frozen, batch, key, targets of the same batch and key) -> (state, metrics)."""


class LossFn(Protocol):
    """(trained, state, frozen, batch, noise [B, ...], targets) -> (loss [], metrics)."""

    def __call__(
        self,
        trained: Params,
        state: TrainState,
        frozen: FrozenParams,
        batch: Batch,
        noise: Array,
        targets: Targets,
        /,
    ) -> tuple[Array, Metrics]: ...


@dataclass(frozen=True)
class Contestant:
    """The teacher or the student: what it rolls out with, and how."""

    params_fn: ParamsFn
    rollout_fn: RolloutFn


@dataclass(frozen=True)
class FrozenFns:
    """The networks that are never trained: text encoder, decoder, rewards."""

    encode_fn: EncodeFn
    decode_fn: DecodeFn
    score_fn: ScoreFn


@dataclass(frozen=True)
class Objective:
    """What the student is trained for.

    Attributes:
        combine_fn: all rewards -> the one that is trained.
        gate_fn: from `make_gate_fn`.
        gate_reward: the name of the reward whose gap moves the gate; empty for the sum.
        reward_loss_fn: `negative_reward` or `hinge_reward`, [B] -> [B].
        horizon_weights: [K], sum 1.
        reward_weight: of the reward loss.
        shaping_weight: alpha, of the gated shaping loss.
        moments_decay: of the running moments of the gap and of the rewards.
    """

    combine_fn: CombineFn
    gate_fn: GateFn
    gate_reward: str
    reward_loss_fn: Callable[[Array], Array]
    horizon_weights: np.ndarray
    reward_weight: float
    shaping_weight: float
    moments_decay: float
