"""From a config to the functions and weights of a run: every choice by name is made here, nothing jitted."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rats_jax.diffusion.grid import make_grid, sigmas
from rats_jax.diffusion.guidance import with_guidance
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import ddim_step, euler_step
from rats_jax.diffusion.schedule import get_prediction_type
from rats_jax.errors import ConfigError, WeightsError
from rats_jax.models.pipeline import Pipeline, load_pipeline
from rats_jax.objective.combine import CombineFn, normalised_sum, weighted_sum
from rats_jax.objective.gate import (
    GateFn,
    constant_gate,
    hard_gate,
    make_gate_fn,
    sigmoid_gate,
)
from rats_jax.objective.horizon import interpolation_matrix, normalise_weights
from rats_jax.objective.loss import hinge_reward, negative_reward
from rats_jax.objective.moments import init_moments
from rats_jax.paths import resolve_path
from rats_jax.rewards import REWARDS, make_score_fn
from rats_jax.runtime.config import validate_reward_kinds
from rats_jax.runtime.optimizer import make_optimizer
from rats_jax.types import (
    Batch,
    FrozenParams,
    Grid,
    Params,
    PromptInputs,
    RewardModel,
    ScoreFn,
    TrainState,
)
from rats_jax.update import RolloutFn, UpdateFn, make_update_fn


@dataclass(frozen=True)
class Experiment:
    """What a run is made of.

    Attributes:
        pipeline: the pretrained model.
        optimizer: of the student.
        update_fn: one RATS update.
        gate_fn: as in the update.
        student_rollout_fn, teacher_rollout_fn: as in the update.
        untrained_cfg_rollout_fn: the student's steps with the teacher's guidance.
        rewards: by name, the trained ones.
        monitors: by name, those that are measured and never trained on.
        score_fn, monitor_fn: all of `rewards`, all of `monitors`.
        combine_fn: the sum of `rewards`.
        gate_reward: the name of the reward that moves the gate, or empty for the sum.
        normalised: whether that sum needs their running moments.
        nfe, teacher_nfe: network evaluations per picture; guidance counts twice.
    """

    pipeline: Pipeline
    optimizer: optax.GradientTransformation
    update_fn: UpdateFn
    gate_fn: GateFn
    student_rollout_fn: RolloutFn
    teacher_rollout_fn: RolloutFn
    untrained_cfg_rollout_fn: RolloutFn
    rewards: Mapping[str, RewardModel]
    monitors: Mapping[str, RewardModel]
    score_fn: ScoreFn
    monitor_fn: ScoreFn
    combine_fn: CombineFn
    gate_reward: str
    normalised: bool
    nfe: int
    teacher_nfe: int

    def init_state(self, student: Params) -> TrainState:
        """Start from the pretrained weights, with a teacher of its own buffers; traceable."""
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            student=student,
            teacher=jax.tree.map(jnp.copy, student),
            opt_state=self.optimizer.init(student),
            gap=init_moments(),
            rewards={name: init_moments() for name in self.rewards} if self.normalised else {},
        )

    def image_shape(self) -> tuple[int, ...]:
        """Give (H, W, 3) of the model's pictures, computing nothing."""
        latents = jax.ShapeDtypeStruct((1, *self.pipeline.latent_shape), jnp.float32)
        return jax.eval_shape(self.pipeline.decode_fn, self.pipeline.decoder, latents).shape[1:]

    def frozen_params(self) -> FrozenParams:
        """Collect the weights that no update changes."""
        rewards = {name: reward.params for name, reward in self.rewards.items()}
        return FrozenParams(self.pipeline.text_encoder, self.pipeline.decoder, rewards)

    def make_batch(self, prompts: list[str]) -> Batch:
        """Prepare B prompts for the text encoder and for every reward: NumPy arrays [B, ...]."""
        return Batch(self.pipeline.tokenize(prompts), _prepare(self.rewards, prompts))

    def make_monitor_inputs(self, prompts: list[str]) -> dict[str, PromptInputs]:
        """Do the same for every monitored reward."""
        return _prepare(self.monitors, prompts)


def _prepare(rewards: Mapping[str, RewardModel], prompts: list[str]) -> dict[str, PromptInputs]:
    return {name: reward.prepare(prompts) for name, reward in rewards.items()}


def make_experiment(config: Any) -> Experiment:
    """Load the models and compose the functions of a run.

    Args:
        config: fields as in configs/default.py, already validated.

    Returns:
        The experiment.

    Raises:
        ConfigError: what only the models tell: weights that do not fit, an impossible schedule.
    """
    validate_reward_kinds(config, REWARDS)
    dtype = jnp.dtype(config.compute_dtype)
    pipeline = load_pipeline(resolve_path(config.pretrained), dtype=dtype)
    rewards, monitors = (_load_rewards(config, section, dtype=dtype) for section in ("rewards", "monitor"))

    student_grid = _grid(pipeline, config.student, "student")
    teacher_grid = _grid(pipeline, config.teacher, "teacher")
    try:
        prediction_type = get_prediction_type(pipeline.scheduler_config)
        horizon_matrix = interpolation_matrix(
            sigmas(teacher_grid)[:-1], sigmas(student_grid)[:-1], interpolation=config.horizon.interpolation
        )
        horizon_weights = normalise_weights(
            tuple(config.horizon.weights) or "uniform", config.student.num_steps
        )
    except ValueError as error:
        raise ConfigError(f"pretrained={config.pretrained!r}, horizon: {error}") from None

    def rollout_fn(grid: Grid, guidance_scale: float, **differences: Any) -> RolloutFn:
        options = {"gradient_steps": len(grid.timesteps), "remat": False, "unroll": False} | differences
        guided = with_guidance(pipeline.denoise_fn, guidance_scale=guidance_scale)
        step_fn = {"ddim": ddim_step, "euler": euler_step}[config.sampler]
        return functools.partial(
            rollout, guided, grid=grid, prediction_type=prediction_type, step_fn=step_fn, **options
        )

    # XLA's CPU backend differentiates a loop several times slower than its steps in a row.
    unroll = {"yes": True, "no": False, "auto": jax.default_backend() == "cpu"}[config.student.unroll]
    student_rollout_fn = rollout_fn(
        student_grid,
        config.student.guidance_scale,
        gradient_steps=config.student.reward_gradient_steps,
        remat=config.student.remat,
        unroll=unroll,
    )
    teacher_rollout_fn = rollout_fn(teacher_grid, config.teacher.guidance_scale)
    score_fn, monitor_fn = (
        make_score_fn({name: reward.reward_fn for name, reward in models.items()})
        for models in (rewards, monitors)
    )
    combine_fn = functools.partial(
        normalised_sum if config.normalise_rewards else weighted_sum,
        weights={name: config.rewards[name].weight for name in rewards},
    )
    optimizer = make_optimizer(
        learning_rate=config.optimizer.learning_rate,
        warmup_updates=config.optimizer.warmup_updates,
        decay_updates=config.optimizer.decay_updates,
        clip_norm=config.optimizer.clip_norm,
        b1=config.optimizer.b1,
        b2=config.optimizer.b2,
        weight_decay=config.optimizer.weight_decay,
    )
    gate = {
        "sigmoid": sigmoid_gate,
        "hard": hard_gate,
        "constant": functools.partial(constant_gate, value=config.gate.value),
    }[config.gate.kind]
    gate_fn = make_gate_fn(gate, temperature=config.gate.temperature, relative=config.gate.relative)
    reward_loss_fn = {
        "negative": negative_reward,
        "hinge": functools.partial(hinge_reward, margin=config.reward_loss.margin),
    }[config.reward_loss.kind]
    update_fn = make_update_fn(
        teacher_rollout_fn,
        student_rollout_fn,
        pipeline.encode_fn,
        pipeline.decode_fn,
        score_fn,
        combine_fn,
        gate_fn,
        reward_loss_fn,
        optimizer,
        latent_shape=pipeline.latent_shape,
        horizon_matrix=horizon_matrix,
        horizon_weights=horizon_weights,
        gate_reward=config.gate.reward,
        moments_decay=config.gate.std_decay,
        reward_weight=config.reward_weight,
        shaping_weight=config.shaping_weight,
        ema_decay=config.teacher.ema_decay,
        accumulation_steps=config.optimizer.accumulation_steps,
    )
    return Experiment(
        pipeline=pipeline,
        optimizer=optimizer,
        update_fn=update_fn,
        gate_fn=gate_fn,
        student_rollout_fn=student_rollout_fn,
        teacher_rollout_fn=teacher_rollout_fn,
        untrained_cfg_rollout_fn=rollout_fn(student_grid, config.teacher.guidance_scale),
        rewards=rewards,
        monitors=monitors,
        score_fn=score_fn,
        monitor_fn=monitor_fn,
        combine_fn=combine_fn,
        gate_reward=config.gate.reward,
        normalised=config.normalise_rewards,
        nfe=_nfe(config.student),
        teacher_nfe=_nfe(config.teacher),
    )


def _load_rewards(config: Any, section: str, *, dtype: Any) -> dict[str, RewardModel]:
    """Load all rewards of `rewards` or `monitor`, by name."""
    loaded = {}
    for name, reward in sorted(config[section].items()):
        try:
            loaded[name] = REWARDS[reward.kind](reward.path, dtype=dtype)
        except WeightsError as error:
            raise WeightsError(f"{section}.{name}: {error}") from None
    return loaded


def _grid(pipeline: Pipeline, sampling: Any, name: str) -> Grid:
    """Lay out the noise levels of the teacher or the student."""
    scheduler_config = dict(pipeline.scheduler_config)
    if sampling.timestep_spacing:
        scheduler_config["timestep_spacing"] = sampling.timestep_spacing
    try:
        return make_grid(scheduler_config, sampling.num_steps)
    except ValueError as error:
        raise ConfigError(f"{name}.num_steps={sampling.num_steps}: {error}") from None


def _nfe(sampling: Any) -> int:
    return sampling.num_steps * (1 if sampling.guidance_scale == 1.0 else 2)
