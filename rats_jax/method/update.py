"""One RATS update: the page to hold beside the paper's algorithm.

Li et al., Reward-Aware Trajectory Shaping for Few-step Visual Generation, arXiv 2604.14910, section 3.
Static distillation (reward_weight 0, a gate of 1) and reward-only optimisation (a gate of 0) are this code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rats_jax.method.combine import CombineFn
from rats_jax.method.gate import GateFn
from rats_jax.method.horizon import match_horizons, shaping_loss
from rats_jax.method.loss import rats_loss
from rats_jax.method.moments import update_moments
from rats_jax.method.parts import cut, in_parts
from rats_jax.types import (
    Array,
    Batch,
    DecodeFn,
    EncodeFn,
    FrozenParams,
    Key,
    Moments,
    Params,
    PromptEmbeds,
    ScoreFn,
    Targets,
    TrainState,
    Trajectory,
)

Metrics = dict[str, Array]
RolloutFn = Callable[[Params, Array, PromptEmbeds], Trajectory]
"""(params, noise [B, H, W, C], embeds) -> Trajectory."""
ParamsFn = Callable[[Params, Params], Params]
"""(FrozenParams.base, TrainState.student or .teacher) -> the params of a rollout."""
TeachFn = Callable[[Params, FrozenParams, Batch, Key], Targets]
"""(TrainState.teacher, frozen, batch, key) -> Targets."""


class UpdateFn(Protocol):
    """(state, frozen, batch, key, targets of the same batch and key or None) -> (state, metrics)."""

    def __call__(
        self,
        state: TrainState,
        frozen: FrozenParams,
        batch: Batch,
        key: Key,
        targets: Targets | None = None,
        /,
    ) -> tuple[TrainState, Metrics]: ...


class _LossFn(Protocol):
    def __call__(
        self, student: Params, batch: Batch, noise: Array, targets: Targets | None, /
    ) -> tuple[Array, Metrics]: ...


def make_update_fn(
    teacher_rollout_fn: RolloutFn,
    student_rollout_fn: RolloutFn,
    teacher_params_fn: ParamsFn,
    student_params_fn: ParamsFn,
    encode_fn: EncodeFn,
    decode_fn: DecodeFn,
    score_fn: ScoreFn,
    combine_fn: CombineFn,
    gate_fn: GateFn,
    reward_loss_fn: Callable[[Array], Array],
    optimizer: optax.GradientTransformation,
    *,
    latent_shape: tuple[int, int, int],
    horizon_matrix: np.ndarray,
    horizon_weights: np.ndarray,
    gate_reward: str,
    moments_decay: float,
    reward_weight: float,
    shaping_weight: float,
    ema_decay: float,
    ema_every: int,
    accumulation_steps: int,
    split_batch: Callable[[Array], Array],
) -> UpdateFn:
    """Compose the update; jit the result once, donating the state.

    Args:
        teacher_rollout_fn: many steps with the teacher's guidance, S of whose clean estimates are kept.
        student_rollout_fn: K steps with the student's.
        teacher_params_fn, student_params_fn: what each rolls out with, of the frozen base and the state.
        encode_fn, decode_fn: the frozen text encoder and decoder.
        score_fn: all rewards, each by name.
        combine_fn: their sum, the reward that is trained.
        gate_fn: from `make_gate_fn`.
        reward_loss_fn: one of `objective.loss`, [B] -> [B].
        optimizer: of the student.
        latent_shape: (H, W, C) of one sample.
        horizon_matrix: [K, S], those columns of `interpolation_matrix`.
        horizon_weights: [K], sum 1.
        gate_reward: the name of the reward whose gap moves the gate; empty for the sum.
        moments_decay: of the running moments of the gap and of the rewards.
        reward_weight: of the reward loss.
        shaping_weight: alpha.
        ema_decay: m in theta_T <- m theta_T + (1 - m) theta_S; 1 freezes the teacher.
        ema_every: updates between two such steps.
        accumulation_steps: parts that the batch is cut into and passed through one after another.
        split_batch: lays an array [B, ...] out over the devices as the batch is, or leaves it.

    Returns:
        update(state, frozen, batch, key, targets=None) -> (state, metrics); metrics are float32 scalars,
        batch means. The gradient reaches the student alone. With targets the teacher is not run.

    Source: Li et al., arXiv 2604.14910, section 3 and figure 2; the gate's sign is its abstract's.
    """
    scores_of = _make_scores_of(decode_fn, score_fn, split_batch)
    roll_and_score = _make_roll_and_score(
        teacher_rollout_fn, decode_fn, score_fn, horizon_matrix=horizon_matrix, split_batch=split_batch
    )

    def reward_moments(
        old: dict[str, Moments], teacher: dict[str, Array], student: dict[str, Array]
    ) -> dict[str, Moments]:
        """Follow each reward that is normalised, over both contestants."""
        both = {name: jnp.concatenate([teacher[name], student[name]]) for name in old}
        return {name: update_moments(old[name], both[name], decay=moments_decay) for name in old}

    def make_loss_fn(state: TrainState, frozen: FrozenParams) -> _LossFn:
        # The loss is a function of the student alone: nothing else may learn from it.
        frozen = jax.lax.stop_gradient(frozen)
        teacher_params = teacher_params_fn(frozen.base, jax.lax.stop_gradient(state.teacher))

        def loss_fn(
            student: Params, batch: Batch, noise: Array, targets: Targets | None
        ) -> tuple[Array, Metrics]:
            student_params = student_params_fn(frozen.base, student)
            embeds = encode_fn(frozen.text_encoder, batch.prompt)
            # 1. The teacher: its clean estimates at the student's noise levels, and its result scored.
            if targets is None:
                targets = roll_and_score(teacher_params, frozen, embeds, batch, noise)
            teacher_denoised, teacher_scores = jnp.moveaxis(targets.denoised, 1, 0), targets.scores
            # 2. The student, from the same noise and prompts.
            student_path = student_rollout_fn(student_params, noise, embeds)
            # 3. Both compared at the same noise levels.
            shaping = shaping_loss(student_path.denoised, teacher_denoised, horizon_weights)
            # 4. The student's result scored.
            student_scores = scores_of(frozen, student_path.latents, batch)
            moments = reward_moments(state.rewards, teacher_scores, student_scores)
            teacher_reward = combine_fn(teacher_scores, moments)
            student_reward = combine_fn(student_scores, moments)
            # 5. The gate: strong while the teacher is better, released once the student is.
            judged = teacher_reward, student_reward
            if gate_reward:
                judged = teacher_scores[gate_reward], student_scores[gate_reward]
            gate_gap = judged[0] - judged[1]
            gate, temperature = gate_fn(*judged, update_moments(state.gap, gate_gap, decay=moments_decay))
            # 6. The loss.
            reward_loss = reward_loss_fn(student_reward)
            loss = rats_loss(
                reward_loss, shaping, gate, reward_weight=reward_weight, shaping_weight=shaping_weight
            )
            metrics = {
                "reward/student": student_reward,
                "reward/teacher": teacher_reward,
                "reward/gap": teacher_reward - student_reward,
                **{f"reward/student/{name}": value for name, value in student_scores.items()},
                **{f"reward/teacher/{name}": value for name, value in teacher_scores.items()},
                "gate/mean": gate,
                "gate/gap": gate_gap,
                "gate/temperature": temperature,
                "loss/reward": reward_loss,
                "loss/shape": shaping,
                "loss/total": loss,
            }
            return loss, metrics

        return loss_fn

    def update(
        state: TrainState, frozen: FrozenParams, batch: Batch, key: Key, targets: Targets | None = None, /
    ) -> tuple[TrainState, Metrics]:
        noise = split_batch(_draw_noise(key, batch, latent_shape))
        grads, samples = _accumulated_grads(
            make_loss_fn(state, frozen), state.student, (batch, noise, targets), accumulation_steps
        )
        # 7. The student's step, then the teacher follows.
        updates, opt_state = optimizer.update(grads, state.opt_state, state.student)
        student = optax.apply_updates(state.student, updates)
        teacher = state.teacher
        if ema_decay < 1.0:
            moved = optax.incremental_update(student, teacher, 1.0 - ema_decay)
            moves = (state.step + 1) % ema_every == 0
            teacher = jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, teacher)
        gap = update_moments(state.gap, samples["gate/gap"].reshape(-1), decay=moments_decay)
        by_name = {
            who: {name: samples[f"reward/{who}/{name}"].reshape(-1) for name in state.rewards}
            for who in ("teacher", "student")
        }
        moments = reward_moments(state.rewards, by_name["teacher"], by_name["student"])
        metrics = {name: jnp.mean(value, dtype=jnp.float32) for name, value in samples.items()}
        metrics["grad/norm"] = optax.global_norm(grads)
        return TrainState(state.step + 1, student, teacher, opt_state, gap, moments), metrics

    return update


def make_teach_fn(
    teacher_rollout_fn: RolloutFn,
    teacher_params_fn: ParamsFn,
    encode_fn: EncodeFn,
    decode_fn: DecodeFn,
    score_fn: ScoreFn,
    *,
    latent_shape: tuple[int, int, int],
    horizon_matrix: np.ndarray,
    accumulation_steps: int,
    split_batch: Callable[[Array], Array],
) -> TeachFn:
    """Compose the teacher's part of the update alone, for targets that several updates share.

    Args: as of `make_update_fn`.

    Returns:
        teach(teacher, frozen, batch, key) -> what the update with the same batch and key compares with.
    """
    roll_and_score = _make_roll_and_score(
        teacher_rollout_fn, decode_fn, score_fn, horizon_matrix=horizon_matrix, split_batch=split_batch
    )

    def part(params: tuple[Params, FrozenParams], batch: Batch, noise: Array) -> Targets:
        teacher, frozen = params
        embeds = encode_fn(frozen.text_encoder, batch.prompt)
        return roll_and_score(teacher_params_fn(frozen.base, teacher), frozen, embeds, batch, noise)

    def teach(teacher: Params, frozen: FrozenParams, batch: Batch, key: Key) -> Targets:
        noise = split_batch(_draw_noise(key, batch, latent_shape))
        return in_parts(part, accumulation_steps)((teacher, frozen), batch, noise)

    return teach


def _make_roll_and_score(
    teacher_rollout_fn: RolloutFn,
    decode_fn: DecodeFn,
    score_fn: ScoreFn,
    *,
    horizon_matrix: np.ndarray,
    split_batch: Callable[[Array], Array],
) -> Callable[[Params, FrozenParams, PromptEmbeds, Batch, Array], Targets]:
    """Compose the teacher's rollout, its estimates at the student's noise levels, and its rewards."""
    scores_of = _make_scores_of(decode_fn, score_fn, split_batch)

    def roll_and_score(
        params: Params, frozen: FrozenParams, embeds: PromptEmbeds, batch: Batch, noise: Array
    ) -> Targets:
        path = teacher_rollout_fn(params, noise, embeds)
        denoised = jnp.moveaxis(match_horizons(horizon_matrix, path.denoised), 0, 1)
        return Targets(denoised, scores_of(frozen, path.latents, batch))

    return roll_and_score


def _make_scores_of(
    decode_fn: DecodeFn, score_fn: ScoreFn, split_batch: Callable[[Array], Array]
) -> Callable[[FrozenParams, Array, Batch], dict[str, Array]]:
    """Compose decoder and rewards."""

    def scores_of(frozen: FrozenParams, latents: Array, batch: Batch) -> dict[str, Array]:
        # Rewards are defined on pictures; what clips earns nothing and has no gradient.
        images = split_batch(jnp.clip(decode_fn(frozen.decoder, latents), 0.0, 1.0))
        return score_fn(frozen.rewards, images, batch.reward)

    return scores_of


def _draw_noise(key: Key, batch: Batch, latent_shape: tuple[int, int, int]) -> Array:
    batch_size = jax.tree.leaves(batch)[0].shape[0]
    return jax.random.normal(key, (batch_size, *latent_shape), jnp.float32)


def _accumulated_grads(
    loss_fn: _LossFn, student: Params, inputs: tuple[Batch, Array, Targets | None], num_parts: int
) -> tuple[Params, Any]:
    """Average the gradient over equal parts of the batch; metrics keep their [num_parts, ...] axes."""
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if num_parts == 1:
        return grad_fn(student, *inputs)

    def add(total: Params, part: tuple[Batch, Array, Targets | None]) -> tuple[Params, Metrics]:
        grads, metrics = grad_fn(student, *part)
        return jax.tree.map(jnp.add, total, grads), metrics

    zeros = jax.tree.map(jnp.zeros_like, student)
    parts = jax.tree.map(lambda x: cut(x, num_parts), inputs)
    total, metrics = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda g: g / num_parts, total), metrics
