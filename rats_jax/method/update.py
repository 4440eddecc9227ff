"""RATS update: the page to hold beside the paper's algorithm.

Li et al., Reward-Aware Trajectory Shaping for Few-step Visual Generation, arXiv 2604.14910, section 3.
Static distillation (reward_weight 0, a gate of 1) and reward-only optimisation (a gate of 0) are this code.
Every function here makes a pure one; jit what `with_teacher` or `make_update_fn` gives, donating the state.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rats_jax.diffusion.draw import make_draw_fn
from rats_jax.method.contracts import (
    Contestant,
    FrozenFns,
    LossFn,
    Metrics,
    NoiseFn,
    Objective,
    TargetsUpdateFn,
    TeachFn,
    UpdateFn,
)
from rats_jax.method.horizon import match_horizons, shaping_loss
from rats_jax.method.loss import rats_loss
from rats_jax.method.moments import follow, update_moments
from rats_jax.method.parts import in_parts, mean_gradient
from rats_jax.types import Array, Batch, FrozenParams, Key, Params, Targets, TrainState


def make_teach_fn(
    teacher: Contestant,
    fns: FrozenFns,
    *,
    noise_fn: NoiseFn,
    horizon_matrix: np.ndarray,
    accumulation_steps: int,
) -> TeachFn:
    """Compose the teacher's part: its clean estimates at the student's noise levels, and its result scored.

    Args:
        teacher: many steps with its guidance, S of whose clean estimates are kept.
        fns: of the frozen networks.
        noise_fn: (key, batch) -> noise [B, ...] float32.
        horizon_matrix: [K, S], those columns of `interpolation_matrix`.
        accumulation_steps: parts of the batch that are taught one after another.

    Returns:
        teach(TrainState.teacher, frozen, batch, key) -> Targets of the update with the same batch and key.
    """
    draw_fn = make_draw_fn(fns.encode_fn, teacher.rollout_fn, fns.decode_fn, name="teacher")

    def teach_part(params: tuple[Params, FrozenParams], batch: Batch, noise: Array) -> Targets:
        teacher_params, frozen = params
        trajectory, images = draw_fn(teacher_params, frozen.text_encoder, frozen.decoder, batch.prompt, noise)
        denoised = match_horizons(horizon_matrix, trajectory.denoised)
        with jax.named_scope("reward"):
            scores = fns.score_fn(frozen.rewards, images, batch.reward)
        return Targets(jnp.moveaxis(denoised, 0, 1), scores)

    def teach(trained: Params, frozen: FrozenParams, batch: Batch, key: Key) -> Targets:
        params = teacher.params_fn(frozen.base, trained), frozen
        return in_parts(teach_part, accumulation_steps)(params, batch, noise_fn(key, batch))

    return teach


def make_loss_fn(student: Contestant, fns: FrozenFns, objective: Objective) -> LossFn:
    """Compose the loss of a batch as a function of what is trained.

    Args:
        student: K steps with its guidance.
        fns: of the frozen networks.
        objective: rewards, gate and weights.

    Returns:
        loss(trained, state, frozen, batch, noise, targets) -> (loss [], metrics [B] by name). Of the state
        the running moments are read; the gradient reaches `trained` alone.
    """
    draw_fn = make_draw_fn(fns.encode_fn, student.rollout_fn, fns.decode_fn, name="student")

    def loss_fn(
        trained: Params, state: TrainState, frozen: FrozenParams, batch: Batch, noise: Array, targets: Targets
    ) -> tuple[Array, Metrics]:
        state, frozen, targets = jax.lax.stop_gradient((state, frozen, targets))
        # 1. The student, from the teacher's noise and prompts.
        params = student.params_fn(frozen.base, trained)
        trajectory, images = draw_fn(params, frozen.text_encoder, frozen.decoder, batch.prompt, noise)
        # 2. Both compared at the same noise levels.
        teacher_denoised = jnp.moveaxis(targets.denoised, 1, 0)
        shaping = shaping_loss(trajectory.denoised, teacher_denoised, objective.horizon_weights)
        # 3. Both results scored.
        with jax.named_scope("reward"):
            student_scores = fns.score_fn(frozen.rewards, images, batch.reward)
        scores = {"teacher": targets.scores, "student": student_scores}
        moments = follow(state.rewards, scores, decay=objective.moments_decay)
        rewards = {who: objective.combine_fn(by_name, moments) for who, by_name in scores.items()}
        # 4. The gate: strong while the teacher is better, released once the student is.
        gated = (
            {who: s[objective.gate_reward] for who, s in scores.items()} if objective.gate_reward else rewards
        )
        gap = gated["teacher"] - gated["student"]
        gap_moments = update_moments(state.gap, gap, decay=objective.moments_decay)
        gate, temperature = objective.gate_fn(gated["teacher"], gated["student"], gap_moments)
        # 5. The loss.
        reward_loss = objective.reward_loss_fn(rewards["student"])
        loss = rats_loss(
            *(reward_loss, shaping, gate),
            reward_weight=objective.reward_weight,
            shaping_weight=objective.shaping_weight,
        )
        metrics = {f"reward/{who}": reward for who, reward in rewards.items()}
        metrics |= {f"reward/{who}/{name}": s[name] for who, s in scores.items() for name in s}
        metrics |= {"reward/gap": rewards["teacher"] - rewards["student"], "gate/gap": gap, "gate/mean": gate}
        metrics |= {"gate/temperature": temperature, "loss/reward": reward_loss, "loss/shape": shaping}
        return loss, metrics | {"loss/total": loss}

    return loss_fn


def make_update_fn(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    noise_fn: NoiseFn,
    moments_decay: float,
    ema_decay: float,
    ema_every: int,
    average_decay: float,
    accumulation_steps: int,
) -> TargetsUpdateFn:
    """Compose one update from a loss and the teacher's targets.

    Args:
        loss_fn: from `make_loss_fn`.
        optimizer: of the student.
        noise_fn: as of `make_teach_fn`.
        moments_decay: of the running moments of the gap and of the rewards.
        ema_decay: m in theta_T <- m theta_T + (1 - m) theta_S; 1 freezes the teacher.
        ema_every: updates between two such steps.
        average_decay: m of the student's own average, which nothing trains against; 0 keeps none.
        accumulation_steps: parts that the batch is cut into and passed through one after another.

    Returns:
        update(state, frozen, batch, key, targets) -> (state, metrics): float32 scalars, means over the batch.
    """

    def update(
        state: TrainState, frozen: FrozenParams, batch: Batch, key: Key, targets: Targets
    ) -> tuple[TrainState, Metrics]:
        def part_loss_fn(trained: Params, *part: Any) -> tuple[Array, Metrics]:
            return loss_fn(trained, state, frozen, *part)

        inputs = batch, noise_fn(key, batch), targets
        grads, samples = mean_gradient(part_loss_fn, state.student, inputs, accumulation_steps)
        # 6. The student's step, then the teacher follows.
        updates, opt_state = optimizer.update(grads, state.opt_state, state.student)
        student = optax.apply_updates(state.student, updates)
        teacher = state.teacher
        if ema_decay < 1.0:
            moved = optax.incremental_update(student, teacher, 1.0 - ema_decay)
            moves = (state.step + 1) % ema_every == 0
            teacher = jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, teacher)
        average = state.average
        if average_decay:
            average = optax.incremental_update(student, average, 1.0 - average_decay)
        gap = update_moments(state.gap, samples["gate/gap"].reshape(-1), decay=moments_decay)
        scores = {
            who: {name: samples[f"reward/{who}/{name}"].reshape(-1) for name in state.rewards}
            for who in ("teacher", "student")
        }
        rewards = follow(state.rewards, scores, decay=moments_decay)
        metrics = {name: jnp.mean(value, dtype=jnp.float32) for name, value in samples.items()}
        metrics["grad/norm"] = optax.global_norm(grads)
        return TrainState(state.step + 1, student, teacher, opt_state, gap, rewards, average), metrics

    return update


def with_teacher(update_fn: TargetsUpdateFn, teach_fn: TeachFn) -> UpdateFn:
    """Let each update run its teacher first: (state, frozen, batch, key) -> (state, metrics)."""

    def update(state: TrainState, frozen: FrozenParams, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
        teacher, fixed = jax.lax.stop_gradient((state.teacher, frozen))
        return update_fn(state, frozen, batch, key, teach_fn(teacher, fixed, batch, key))

    return update
