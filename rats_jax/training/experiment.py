"""Experiment: the functions of a run, and the weights and inputs that they are called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rats_jax.method.contracts import Contestant, FrozenFns, Objective, TargetsUpdateFn, TeachFn, UpdateFn
from rats_jax.method.moments import init_moments
from rats_jax.networks.int8 import quantize
from rats_jax.pipelines.base import Pipeline
from rats_jax.types import (
    Batch,
    DecodeFn,
    FrozenParams,
    Params,
    PromptInputs,
    RewardModel,
    ScoreFn,
    TrainState,
)


@dataclass(frozen=True)
class Experiment:
    """What a run is made of; `make_experiment` composes it from a config.

    Attributes:
        pipeline: the pretrained model.
        rewards: by name, the trained ones.
        monitors: by name, those that are measured and never trained on.
        monitor_fn: all of `monitors`.
        decode_whole_fn: what sheets and tables decode with: whole videos, of which the update may decode the
            first frames alone.
        initial: what training starts from, float32: the network's weights, or adapters that change nothing.
        frozen_dtype: what weights that never change are stored in.
        base_is_int8: whether the kernels of the frozen base are kept in 8 bits.
        teacher, student: as in the update.
        untrained_guided: the student's steps with the teacher's guidance.
        teacher_moves: whether the teacher follows the student.
        is_averaged: whether an average of the student is kept.
        fns: of the frozen networks, in parts if the config asks for them.
        objective: rewards, gate and weights.
        normalised: whether the sum of the rewards needs their running moments.
        optimizer: of the student.
        teach_fn: the teacher's part of the update alone.
        update_from_targets_fn: one update from what the teacher left.
        update_fn: one update that runs its teacher.
        nfe, teacher_nfe, guided_nfe: network evaluations per picture, of the student, of the teacher, and of
            `untrained_guided`.
    """

    pipeline: Pipeline
    rewards: Mapping[str, RewardModel]
    monitors: Mapping[str, RewardModel]
    monitor_fn: ScoreFn
    decode_whole_fn: DecodeFn
    initial: Params
    frozen_dtype: Any
    base_is_int8: bool
    teacher: Contestant
    student: Contestant
    untrained_guided: Contestant
    teacher_moves: bool
    is_averaged: bool
    fns: FrozenFns
    objective: Objective
    normalised: bool
    optimizer: optax.GradientTransformation
    teach_fn: TeachFn
    update_from_targets_fn: TargetsUpdateFn
    update_fn: UpdateFn
    nfe: int
    teacher_nfe: int
    guided_nfe: int

    def init_state(self, student: Params) -> TrainState:
        """Start from `student`, with a moving teacher and an average of their own buffers; traceable."""
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            student=student,
            teacher=jax.tree.map(jnp.copy, student) if self.teacher_moves else {},
            opt_state=self.optimizer.init(student),
            gap=init_moments(),
            rewards={name: init_moments() for name in self.rewards} if self.normalised else {},
            average=jax.tree.map(jnp.copy, student) if self.is_averaged else {},
        )

    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the state, computing nothing."""
        return jax.eval_shape(self.init_state, abstract(self.initial))

    def frozen_params(self) -> FrozenParams:
        """Collect the weights that no update changes, in the dtype in which they are stored."""
        pipeline = self.pipeline
        dtypes = pipeline.network_dtypes(self.frozen_dtype)
        base = jax.tree.map(_astype, pipeline.network, dtypes)
        if self.base_is_int8:
            base = quantize(pipeline.network, base, skip=pipeline.float32_weights)
        others = pipeline.text_encoder, pipeline.decoder
        text_encoder, decoder = jax.tree.map(lambda x: _astype(x, self.frozen_dtype), others)
        return FrozenParams(base, text_encoder, decoder, self._reward_params(self.rewards))

    def monitor_params(self) -> dict[str, Params]:
        """Collect the weights of the monitored rewards likewise."""
        return self._reward_params(self.monitors)

    def _reward_params(self, rewards: Mapping[str, RewardModel]) -> dict[str, Params]:
        # Scales, biases and heads stay float32: there are few, and a score shows each rounding.
        return {
            name: jax.tree.map(
                lambda x: _astype(x, self.frozen_dtype) if np.ndim(x) > 1 else x, reward.params
            )
            for name, reward in rewards.items()
        }

    def make_reward_inputs(self, prompts: list[str]) -> dict[str, PromptInputs]:
        """Prepare B prompts for every trained reward: NumPy arrays [B, ...]."""
        return _prepare(self.rewards, prompts)

    def make_batch(self, prompts: list[str]) -> Batch:
        """Prepare B prompts for the text encoder and for every trained reward likewise."""
        return Batch(self.pipeline.tokenize(prompts), self.make_reward_inputs(prompts))

    def make_monitor_inputs(self, prompts: list[str]) -> dict[str, PromptInputs]:
        """Prepare B prompts for every monitored reward likewise."""
        return _prepare(self.monitors, prompts)


def abstract(tree: Any) -> Any:
    """Describe a tree of arrays, or of what is still in files, by shapes and dtypes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)


def _prepare(rewards: Mapping[str, RewardModel], prompts: list[str]) -> dict[str, PromptInputs]:
    return {name: reward.prepare(prompts) for name, reward in rewards.items()}


def _astype(leaf: Any, dtype: Any) -> Any:
    return leaf.update(dtype=dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.astype(dtype)
