"""From a config and its models to the functions of a run: every choice by name, nothing jitted."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rats_jax.diffusion.grid import make_grid, sigmas
from rats_jax.diffusion.guidance import with_guidance
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import SAMPLERS
from rats_jax.diffusion.schedule import get_prediction_type
from rats_jax.diffusion.scheduler_config import as_ddim
from rats_jax.errors import ConfigError
from rats_jax.method.combine import CombineFn, normalised_sum, weighted_sum
from rats_jax.method.gate import GateFn, constant_gate, hard_gate, make_gate_fn, sigmoid_gate
from rats_jax.method.horizon import interpolation_matrix, normalise_weights
from rats_jax.method.loss import hinge_reward, negative_reward
from rats_jax.method.moments import init_moments
from rats_jax.method.parts import in_parts
from rats_jax.method.update import ParamsFn, RolloutFn, TeachFn, UpdateFn, make_teach_fn, make_update_fn
from rats_jax.networks.flax_attention import find_attend_fn, with_attention
from rats_jax.networks.flax_convolution import with_loop_convolutions
from rats_jax.networks.lora import init_adapters, with_adapters
from rats_jax.parallel.placement import Mesh, batch_sharding, param_sharding
from rats_jax.pipelines.base import Pipeline
from rats_jax.rewards import make_score_fn
from rats_jax.training.models import Models
from rats_jax.training.optimizer import make_optimizer
from rats_jax.types import (
    Batch,
    DecodeFn,
    DenoiseFn,
    FrozenParams,
    Grid,
    Params,
    PromptInputs,
    RewardModel,
    ScoreFn,
    TrainState,
)


@dataclass(frozen=True)
class Experiment:
    """What a run is made of.

    Attributes:
        pipeline: the pretrained model.
        decode_fn: its decoder, in parts if the config asks for them.
        student: what training starts from, float32: the UNet's weights, or adapters that change nothing.
        denoise_fn: the network as the rollouts see it, before guidance: with adapters, if there are any.
        student_params_fn, teacher_params_fn: as in the update.
        teacher_moves: whether the teacher follows the student.
        frozen_dtype: what weights that never change are stored in.
        optimizer: of the student.
        update_fn: one RATS update.
        teach_fn: the teacher's part of it alone.
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
    decode_fn: DecodeFn
    student: Params
    denoise_fn: DenoiseFn
    student_params_fn: ParamsFn
    teacher_params_fn: ParamsFn
    teacher_moves: bool
    frozen_dtype: Any
    optimizer: optax.GradientTransformation
    update_fn: UpdateFn
    teach_fn: TeachFn
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
        """Start from `student`, with a moving teacher of its own buffers; traceable."""
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            student=student,
            teacher=jax.tree.map(jnp.copy, student) if self.teacher_moves else {},
            opt_state=self.optimizer.init(student),
            gap=init_moments(),
            rewards={name: init_moments() for name in self.rewards} if self.normalised else {},
        )

    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the state, computing nothing."""
        return jax.eval_shape(self.init_state, _abstract(self.student))

    def image_shape(self) -> tuple[int, ...]:
        """Give (H, W, 3) of the model's pictures, computing nothing."""
        latents = jax.ShapeDtypeStruct((1, *self.pipeline.latent_shape), jnp.float32)
        decoder = _abstract(self.pipeline.decoder)
        return jax.eval_shape(self.pipeline.decode_fn, decoder, latents).shape[1:]

    def frozen_params(self) -> FrozenParams:
        """Collect the weights that no update changes, in the dtype in which they are stored."""
        networks = (self.pipeline.unet, self.pipeline.text_encoder, self.pipeline.decoder)
        base, text_encoder, decoder = jax.tree.map(lambda x: _astype(x, self.frozen_dtype), networks)
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

    def make_batch(self, prompts: list[str]) -> Batch:
        """Prepare B prompts for the text encoder and for every reward: NumPy arrays [B, ...]."""
        return Batch(self.pipeline.tokenize(prompts), _prepare(self.rewards, prompts))

    def make_monitor_inputs(self, prompts: list[str]) -> dict[str, PromptInputs]:
        """Do the same for every monitored reward."""
        return _prepare(self.monitors, prompts)


def _prepare(rewards: Mapping[str, RewardModel], prompts: list[str]) -> dict[str, PromptInputs]:
    return {name: reward.prepare(prompts) for name, reward in rewards.items()}


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)


def _astype(leaf: Any, dtype: Any) -> Any:
    return leaf.update(dtype=dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.astype(dtype)


def make_experiment(config: Any, models: Models, mesh: Mesh) -> Experiment:
    """Compose the functions of a run.

    Args:
        config: fields as in configs/default.py, already validated.
        models: from `open_models` or `describe_models`.
        mesh: where it will run.

    Returns:
        The experiment.

    Raises:
        ConfigError: what only the models tell: an impossible schedule, a target that no layer matches.
    """
    pipeline, rewards, monitors = models.pipeline, models.rewards, models.monitors
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

    denoise_fn, decode_fn, student = pipeline.denoise_fn, pipeline.decode_fn, pipeline.unet
    device = mesh.devices.flat[0]
    attend_fn = find_attend_fn(device)
    if attend_fn:
        denoise_fn = with_attention(denoise_fn, attend_fn)
    if device.platform == "cpu":
        denoise_fn, decode_fn = with_loop_convolutions(denoise_fn), with_loop_convolutions(decode_fn)
    if config.lora.rank:
        denoise_fn = with_adapters(denoise_fn, scale=config.lora.alpha / config.lora.rank)
        student = init_adapters(
            pipeline.unet, targets=config.lora.targets, rank=config.lora.rank, seed=config.seed
        )

    def rollout_fn(grid: Grid, guidance_scale: float, sampler: str, **differences: Any) -> RolloutFn:
        options = {"gradient_steps": len(grid.timesteps), "remat": "none", "unroll": False} | differences
        guided = with_guidance(denoise_fn, guidance_scale=guidance_scale)
        return functools.partial(
            rollout,
            guided,
            grid=grid,
            prediction_type=prediction_type,
            step_fn=SAMPLERS[sampler].step,
            correction=SAMPLERS[sampler].correction(grid),
            **options,
        )

    student_rollout_fn = rollout_fn(
        student_grid,
        config.student.guidance_scale,
        config.sampler,
        gradient_steps=config.student.reward_gradient_steps,
        remat=config.student.remat,
        unroll=config.student.unroll,
    )
    teacher_sampler = config.teacher.sampler or config.sampler
    horizons = np.flatnonzero(np.any(horizon_matrix, axis=0))  # no other estimate of the teacher is read
    teacher_rollout_fn = rollout_fn(
        teacher_grid, config.teacher.guidance_scale, teacher_sampler, keep=horizons
    )
    score_fn, monitor_fn = (
        in_parts(make_score_fn({n: r.reward_fn for n, r in scored.items()}), config.reward_parts)
        for scored in (rewards, monitors)
    )
    decode_fn = in_parts(decode_fn, config.decoder_parts)
    student_params_fn, teacher_params_fn = _params_fns(config, pipeline, mesh)
    batch_layout = batch_sharding(mesh)
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
    layout = {
        "latent_shape": pipeline.latent_shape,
        "horizon_matrix": horizon_matrix[:, horizons],
        "accumulation_steps": config.optimizer.accumulation_steps,
        "split_batch": lambda x: jax.lax.with_sharding_constraint(x, batch_layout),
    }
    teach_fn = make_teach_fn(
        teacher_rollout_fn, teacher_params_fn, pipeline.encode_fn, decode_fn, score_fn, **layout
    )
    update_fn = make_update_fn(
        teacher_rollout_fn,
        student_rollout_fn,
        teacher_params_fn,
        student_params_fn,
        pipeline.encode_fn,
        decode_fn,
        score_fn,
        combine_fn,
        gate_fn,
        reward_loss_fn,
        optimizer,
        horizon_weights=horizon_weights,
        gate_reward=config.gate.reward,
        moments_decay=config.gate.std_decay,
        reward_weight=config.reward_weight,
        shaping_weight=config.shaping_weight,
        ema_decay=config.teacher.ema_decay,
        ema_every=config.teacher.ema_every,
        **layout,
    )
    return Experiment(
        pipeline=pipeline,
        decode_fn=decode_fn,
        student=student,
        denoise_fn=denoise_fn,
        student_params_fn=student_params_fn,
        teacher_params_fn=teacher_params_fn,
        teacher_moves=config.teacher.ema_decay < 1,
        frozen_dtype=jnp.dtype(config.frozen_dtype),
        optimizer=optimizer,
        update_fn=update_fn,
        teach_fn=teach_fn,
        gate_fn=gate_fn,
        student_rollout_fn=student_rollout_fn,
        teacher_rollout_fn=teacher_rollout_fn,
        untrained_cfg_rollout_fn=rollout_fn(student_grid, config.teacher.guidance_scale, config.sampler),
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


def _params_fns(config: Any, pipeline: Pipeline, mesh: Mesh) -> tuple[ParamsFn, ParamsFn]:
    """Say what student and teacher roll out with, of the frozen base and of what is trained."""
    if config.lora.rank:

        def adapted(base: Params, adapters: Params) -> Params:
            return {"base": base, "adapters": adapters}

        return adapted, adapted  # a teacher that does not move has an empty tree of adapters

    split, layout = (
        param_sharding(mesh, {name: pipeline.unet}, config.sharding)[name] for name in ("student", "base")
    )
    dtype = jnp.dtype(config.compute_dtype)

    def computed(_: Params, master: Params) -> Params:
        """Cast the master weights once, not at each layer of each step, and lay them out as the base is."""
        # The first constraint keeps XLA from gathering float32 and casting afterwards.
        cast = jax.lax.with_sharding_constraint(jax.tree.map(lambda x: x.astype(dtype), master), split)
        return jax.lax.with_sharding_constraint(cast, layout)

    return computed, computed if config.teacher.ema_decay < 1 else lambda base, _: base


def _grid(pipeline: Pipeline, sampling: Any, name: str) -> Grid:
    """Lay out the noise levels of the teacher or the student."""
    scheduler_config = pipeline.scheduler_config
    try:
        if sampling.timestep_spacing:
            scheduler_config = as_ddim(scheduler_config, timestep_spacing=sampling.timestep_spacing)
        return make_grid(scheduler_config, sampling.num_steps)
    except ValueError as error:
        raise ConfigError(f"{name}.num_steps={sampling.num_steps}: {error}") from None


def _nfe(sampling: Any) -> int:
    return sampling.num_steps * (1 if sampling.guidance_scale == 1.0 else 2)
