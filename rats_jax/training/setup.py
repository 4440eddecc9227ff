"""Setup of an experiment: from a config and its models to functions, every choice by name, nothing jitted."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.diffusion.draw import RolloutFn
from rats_jax.diffusion.grid import sigmas
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import SAMPLERS, euler_step
from rats_jax.errors import ConfigError, expect
from rats_jax.method.combine import normalised_sum, weighted_sum
from rats_jax.method.contracts import Contestant, FrozenFns, NoiseFn, Objective, ParamsFn
from rats_jax.method.gate import GateFn, constant_gate, hard_gate, make_gate_fn, sigmoid_gate
from rats_jax.method.horizon import interpolation_matrix, normalise_weights
from rats_jax.method.loss import hinge_reward, negative_reward
from rats_jax.method.parts import in_parts
from rats_jax.method.update import make_loss_fn, make_teach_fn, make_update_fn, with_teacher
from rats_jax.networks.lora import Adapted, init_adapters, with_adapters
from rats_jax.parallel.mesh import Mesh
from rats_jax.parallel.placement import batch_sharding, param_sharding, replicated, without_fsdp
from rats_jax.pipelines.base import Pipeline
from rats_jax.rewards import make_score_fn
from rats_jax.training.experiment import Experiment
from rats_jax.training.models import Models
from rats_jax.training.optimizer import make_optimizer
from rats_jax.types import Batch, DenoiseFn, Grid, Key, Params, RewardModel, ScoreFn

# Sampling begins at latents that are all noise; a first timestep with less than this is not for them. One
# step of Stable Diffusion's 'leading' has 0.04, two have 0.85.
_LEAST_NOISE = 0.5


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
    evaluations = {role: _count_evaluations(config, pipeline, role) for role in ("teacher", "student")}
    decay = config.optimizer.weight_decay
    if pipeline.has_constants and not config.lora.rank and decay > 0:
        raise ConfigError(
            f"optimizer.weight_decay={decay}: expected 0 where all of pretrained={config.pretrained!r} "
            "is trained: some weights are constants, which it would shrink"
        )
    _check_spacing(config, pipeline)
    grids = {role: _make_grid(config, pipeline, role) for role in ("teacher", "student")}
    matrix = _make_horizon_matrix(config, grids["teacher"], grids["student"])
    horizons = np.flatnonzero(np.any(matrix, axis=0))  # no other estimate of the teacher is read
    score_fn, monitor_fn = (
        _make_score_fn(config, mesh, role, scored)
        for role, scored in (("rewards", rewards), ("monitors", monitors))
    )
    layout = batch_sharding(mesh)
    decode_fn, decode_whole_fn = (
        _laid_out(in_parts(decode_fn, config.decoder_parts), layout)
        for decode_fn in (pipeline.decode_fn, pipeline.decode_whole_fn or pipeline.decode_fn)
    )
    fns = FrozenFns(pipeline.encode_fn, decode_fn, score_fn)
    objective = make_objective(config, sorted(rewards))
    roll = functools.partial(_make_rollout_fn, config, pipeline)
    student_params_fn, teacher_params_fn = _make_params_fns(config, pipeline, mesh)
    teacher = Contestant(
        teacher_params_fn,
        roll(
            grids["teacher"],
            config.teacher.guidance_scale,
            config.teacher.sampler or config.sampler,
            keep=horizons,
        ),
    )
    student = Contestant(
        student_params_fn,
        roll(
            grids["student"],
            config.student.guidance_scale,
            config.sampler,
            gradient_steps=config.student.reward_gradient_steps,
            remat=config.student.remat,
            unroll=config.student.unroll,
        ),
    )
    untrained_guided = Contestant(
        student_params_fn, roll(grids["student"], config.teacher.guidance_scale, config.sampler)
    )
    settings = {name: value for name, value in config.optimizer.items() if name != "accumulation_steps"}
    optimizer = make_optimizer(**settings)
    steps: dict[str, Any] = {
        "noise_fn": _make_noise_fn(pipeline.latent_shape, layout),
        "accumulation_steps": config.optimizer.accumulation_steps,
    }
    teach_fn = make_teach_fn(teacher, fns, horizon_matrix=matrix[:, horizons], **steps)
    update_from_targets_fn = make_update_fn(
        make_loss_fn(student, fns, objective),
        optimizer,
        moments_decay=config.gate.std_decay,
        ema_decay=config.teacher.ema_decay,
        ema_every=config.teacher.ema_every,
        average_decay=config.student.ema_decay,
        **steps,
    )
    return Experiment(
        pipeline=pipeline,
        rewards=rewards,
        monitors=monitors,
        monitor_fn=monitor_fn,
        decode_whole_fn=decode_whole_fn,
        initial=_make_initial(config, pipeline),
        frozen_dtype=jnp.dtype(config.frozen_dtype),
        base_is_int8=config.lora.base_dtype == "int8",
        teacher=teacher,
        student=student,
        untrained_guided=untrained_guided,
        teacher_moves=config.teacher.ema_decay < 1,
        is_averaged=config.student.ema_decay > 0,
        fns=fns,
        objective=objective,
        normalised=config.normalise_rewards,
        optimizer=optimizer,
        teach_fn=teach_fn,
        update_from_targets_fn=update_from_targets_fn,
        update_fn=with_teacher(update_from_targets_fn, teach_fn),
        nfe=config.student.num_steps * evaluations["student"],
        teacher_nfe=config.teacher.num_steps * evaluations["teacher"],
        guided_nfe=config.student.num_steps * evaluations["teacher"],
    )


def make_denoise_fn(config: Any, pipeline: Pipeline, guidance_scale: float) -> DenoiseFn:
    """Compose the network as a rollout sees it: guided, and with adapters if the config has them."""
    denoise_fn = pipeline.guided_fn(guidance_scale)
    if config.lora.rank:
        denoise_fn = with_adapters(denoise_fn, scale=config.lora.alpha / config.lora.rank)
    return denoise_fn


def make_objective(config: Any, names: list[str]) -> Objective:
    """Compose what a config trains for.

    Args:
        config: fields as in configs/default.py, already validated.
        names: of the trained rewards.
    """
    weights = {name: config.rewards[name].weight for name in names}
    return Objective(
        combine_fn=functools.partial(
            normalised_sum if config.normalise_rewards else weighted_sum, weights=weights
        ),
        gate_fn=_make_gate_fn(config.gate),
        gate_reward=config.gate.reward,
        reward_loss_fn={
            "negative": negative_reward,
            "hinge": functools.partial(hinge_reward, margin=config.reward_loss.margin),
        }[config.reward_loss.kind],
        horizon_weights=normalise_weights(
            tuple(config.horizon.weights) or "uniform", config.student.num_steps
        ),
        reward_weight=config.reward_weight,
        shaping_weight=config.shaping_weight,
        moments_decay=config.gate.std_decay,
    )


def _make_gate_fn(settings: Any) -> GateFn:
    gate = {
        "sigmoid": sigmoid_gate,
        "hard": hard_gate,
        "constant": functools.partial(constant_gate, value=settings.value),
    }[settings.kind]
    of_mean = settings.gap == "mean"
    return make_gate_fn(gate, temperature=settings.temperature, relative=settings.relative, of_mean=of_mean)


def _count_evaluations(config: Any, pipeline: Pipeline, role: str) -> int:
    """Count the network evaluations of a step of the teacher or the student."""
    try:
        return pipeline.evaluations(config[role].guidance_scale)
    except ValueError as error:
        raise ConfigError(f"{role}.{error}") from None


def _check_spacing(config: Any, pipeline: Pipeline) -> None:
    """Refuse timesteps that the student could be trained for, but not exported with."""
    field, spacing = "student.timestep_spacing", config.student.timestep_spacing
    expected = (
        "'leading', 'linspace' or 'trailing': a student is exported with a DDIMScheduler, which has no "
        f"timesteps of the scheduler of pretrained={config.pretrained!r}"
    )
    expect(spacing != "" or pipeline.exports_own_spacing, field, spacing, expected)


def _make_grid(config: Any, pipeline: Pipeline, role: str) -> Grid:
    """Lay out the noise levels of the teacher or the student."""
    sampling = config[role]
    try:
        grid = pipeline.grid_fn(sampling.num_steps, sampling.timestep_spacing)
    except ValueError as error:
        raise ConfigError(f"{role}.num_steps={sampling.num_steps}: {error}") from None
    expected = (
        f"first timestep {grid.timesteps[0]:g} to be of noise, as what is sampled from, its noise rate is "
        f"{grid.noise_rates[0]:.2g}: '{role}.timestep_spacing=trailing' begins at the last timestep"
    )
    expect(grid.noise_rates[0] > _LEAST_NOISE, f"{role}.num_steps", sampling.num_steps, expected)
    return grid


def _make_horizon_matrix(config: Any, teacher_grid: Grid, student_grid: Grid) -> np.ndarray:
    try:
        return interpolation_matrix(
            sigmas(teacher_grid)[:-1], sigmas(student_grid)[:-1], interpolation=config.horizon.interpolation
        )
    except ValueError as error:
        raise ConfigError(f"pretrained={config.pretrained!r}, horizon: {error}") from None


def _make_rollout_fn(
    config: Any,
    pipeline: Pipeline,
    grid: Grid,
    guidance_scale: float,
    sampler: str,
    **differences: Any,
) -> RolloutFn:
    if SAMPLERS[sampler].step is euler_step and np.any(grid.signal_rates == 0.0):
        raise ConfigError(
            f"sampler={sampler!r}: expected 'ddim': the levels of pretrained={config.pretrained!r} begin at "
            "pure noise, whose sigma is infinite; of a flow a step of DDIM is Euler's"
        )
    options = {"gradient_steps": len(grid.timesteps), "remat": "none", "unroll": False} | differences
    return functools.partial(
        rollout,
        make_denoise_fn(config, pipeline, guidance_scale),
        grid=grid,
        prediction_type=pipeline.prediction_type,
        step_fn=SAMPLERS[sampler].step,
        correction=SAMPLERS[sampler].correction(grid),
        **options,
    )


def _make_initial(config: Any, pipeline: Pipeline) -> Params:
    """Give what training starts from: the network, or adapters that change nothing."""
    if not config.lora.rank:
        return pipeline.network
    try:
        return init_adapters(
            pipeline.network, targets=config.lora.targets, rank=config.lora.rank, seed=config.seed
        )
    except ValueError as error:
        raise ConfigError(f"lora.{error}") from None


def _make_params_fns(config: Any, pipeline: Pipeline, mesh: Mesh) -> tuple[ParamsFn, ParamsFn]:
    """Say what student and teacher roll out with, of the frozen base and of what is trained."""
    if config.lora.rank:
        whole = replicated(mesh)

        def adapted(base: Params, adapters: Params) -> Adapted:
            """Gather the adapters once: XLA would move pictures to their parts at each layer."""
            return Adapted(base, jax.lax.with_sharding_constraint(adapters, whole))

        return adapted, adapted  # a teacher that does not move has an empty tree of adapters

    split, layout = (
        param_sharding(mesh, {name: pipeline.network}, config.sharding)[name] for name in ("student", "base")
    )
    dtypes = pipeline.network_dtypes(config.compute_dtype)

    def computed(_: Params, master: Params) -> Params:
        """Cast the master weights once, not at each layer of each step, and lay them out as the base is."""
        # The first constraint keeps XLA from gathering float32 and casting afterwards.
        cast = jax.tree.map(lambda x, dtype: x.astype(dtype), master, dtypes)
        return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(cast, split), layout)

    return computed, computed if config.teacher.ema_decay < 1 else lambda base, _: base


def _make_score_fn(config: Any, mesh: Mesh, role: str, scored: Mapping[str, RewardModel]) -> ScoreFn:
    """Score with several rewards, whose weights are gathered over fsdp before they are read.

    XLA by itself would move the pictures of all devices to the parts of each layer.
    """
    score_fn = in_parts(
        make_score_fn({name: reward.reward_fn for name, reward in scored.items()}), config.reward_parts
    )
    params = {role: {name: reward.params for name, reward in scored.items()}}
    split = param_sharding(mesh, params, config.sharding)[role]
    whole = jax.tree.map(without_fsdp, split)
    if whole == split:
        return score_fn
    return lambda params, *inputs: score_fn(jax.lax.with_sharding_constraint(params, whole), *inputs)


def _make_noise_fn(latent_shape: tuple[int, ...], layout: Any) -> NoiseFn:
    """Draw the noise of a batch, split over the devices as the batch is."""

    def noise_fn(key: Key, batch: Batch) -> jax.Array:
        batch_size = jax.tree.leaves(batch)[0].shape[0]
        noise = jax.random.normal(key, (batch_size, *latent_shape), jnp.float32)
        return jax.lax.with_sharding_constraint(noise, layout)

    return noise_fn


def _laid_out(decode_fn: Any, layout: Any) -> Any:
    """Split images over the devices as the batch is."""
    return lambda params, latents: jax.lax.with_sharding_constraint(decode_fn(params, latents), layout)
