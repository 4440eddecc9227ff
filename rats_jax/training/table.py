"""Table of teacher, untrained model and student on the same prompts and the same noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.data.batches import filled_batches
from rats_jax.diffusion.draw import make_picture_fn, make_sample_fn
from rats_jax.evaluation import guards
from rats_jax.evaluation.reference import Reference, reference_distance
from rats_jax.evaluation.statistics import count_wins
from rats_jax.method.contracts import Contestant
from rats_jax.training.experiment import Experiment
from rats_jax.types import Array, Batch, FrozenParams, Params, PromptInputs

RenderFn = Callable[..., "Pictures"]
"""(params, batch, monitors' prompt inputs, noise) -> Pictures, frozen weights bound."""


class Pictures(NamedTuple):
    """What a contestant made of N prompts: NumPy arrays, or traced ones inside a program.

    Attributes:
        images: [N, H, W, 3] float32 in [0, 1], or whole videos [N, T, H, W, 3].
        latents: [N, h, w, C] or [N, t, h, w, C] float32.
        scores: [N] float32 by name, of every trained and every monitored reward.
    """

    images: Any
    latents: Any
    scores: dict[str, Any]


@dataclass(frozen=True)
class EvaluationSet:
    """Fixed prompts and noise, cut into batches of one size; the last is filled up with repetitions.

    Attributes:
        prompts: N texts.
        noise: [N, h, w, C] float32.
        batch_size: of the device program.
    """

    prompts: list[str]
    noise: np.ndarray
    batch_size: int


def make_evaluation_set(
    experiment: Experiment, prompts: Sequence[str], settings: Any, *, count: int
) -> EvaluationSet:
    """Draw prompts and noise of a table or of sheets.

    Args:
        experiment: for the shape of the latents.
        prompts: all prompts of the run.
        settings: batch_size and seed.
        count: of prompts; those beyond the last repeat with other noise.

    Returns:
        The set; the same for the same settings, whatever the run did before, and the beginning of a longer
        one.
    """
    order = np.random.default_rng(settings.seed).permutation(len(prompts))
    chosen = [prompts[int(order[i % len(order)])] for i in range(count)]
    shape = (count, *experiment.pipeline.latent_shape)
    noise = np.asarray(jax.random.normal(jax.random.key(settings.seed), shape, jnp.float32))
    return EvaluationSet(chosen, noise, settings.batch_size)


def make_contestant_fn(
    experiment: Experiment, contestant: Contestant
) -> Callable[[Params, FrozenParams, Batch, Array], Array]:
    """Compose what differs between contestants: the way from prompts and noise to latents.

    Args:
        experiment: the functions of the run.
        contestant: which steps and guidance, and what it rolls out with.

    Returns:
        sample(params, frozen, batch, noise) -> latents.
    """
    sample_fn = make_sample_fn(experiment.fns.encode_fn, contestant.rollout_fn, name="render")

    def sample(params: Params, frozen: FrozenParams, batch: Batch, noise: Array) -> Array:
        params = contestant.params_fn(frozen.base, params)
        return sample_fn(params, frozen.text_encoder, batch.prompt, noise).latents

    return sample


def make_judge_fn(experiment: Experiment) -> Callable[..., Pictures]:
    """Compose what all contestants share: decoder, rewards and monitors.

    Args:
        experiment: the functions of the run.

    Returns:
        judge(frozen, monitors' params, batch, monitors' prompt inputs, latents) -> Pictures of arrays.
    """
    fns = experiment.fns
    picture_fn = make_picture_fn(experiment.decode_whole_fn)

    def judge(
        frozen: FrozenParams,
        monitor_params: Mapping[str, Params],
        batch: Batch,
        monitor_prompt: Mapping[str, PromptInputs],
        latents: Array,
    ) -> Pictures:
        images = picture_fn(frozen.decoder, latents)
        scores = fns.score_fn(frozen.rewards, images, batch.reward)
        return Pictures(
            images, latents, scores | experiment.monitor_fn(monitor_params, images, monitor_prompt)
        )

    return judge


def render_set(
    experiment: Experiment,
    render_fn: Callable[..., Any],
    params: Params,
    evaluation_set: EvaluationSet,
) -> Pictures:
    """Draw and judge the set, batch by batch.

    Args:
        experiment: for the tokenizers.
        render_fn: one of `Program.render_fns`.
        params: of the contestant.
        evaluation_set: prompts and noise.

    Returns:
        NumPy arrays over the rendered prompts.
    """
    total, parts = len(evaluation_set.prompts), []
    for rows, kept in filled_batches(total, evaluation_set.batch_size):
        prompts = [evaluation_set.prompts[i] for i in rows]
        inputs = experiment.make_batch(prompts), experiment.make_monitor_inputs(prompts)
        result = render_fn(params, *inputs, evaluation_set.noise[rows])
        parts.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[kept], result))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def summarise(
    pictures: Mapping[str, Pictures],
    prompts: list[str],
    combine_fn: Callable[[Mapping[str, Any]], Any],
    *,
    heldout: str,
    accuracy: str = "",
    reference: Reference | None,
) -> dict[str, Any]:
    """Average every score over the prompts, for each contestant.

    Args:
        pictures: by contestant.
        prompts: N texts.
        combine_fn: scores by name -> the trained reward [N].
        heldout: the name of the reward that judges, or empty.
        accuracy: the name of the monitor that says whether a picture shows what its prompt asks for, or
            empty.
        reference: the real pictures, or None.

    Returns:
        {"reward", "heldout_reward", "heldout_win_rate", "accuracy", "motion", "reference_distance",
        "nearest_reference_distance"} by contestant, None where there is nothing to measure or to measure
        against, and "rewards": every single reward by contestant, by name. The win rate is the share of
        prompts on which the contestant's held-out reward is above the teacher's, ties a half; motion is of
        videos, see `guards.motion`.
    """

    def table(values: Mapping[str, np.ndarray | None]) -> dict[str, float | None]:
        return {who: None if value is None else float(np.mean(value)) for who, value in values.items()}

    scores = {who: p.scores for who, p in pictures.items()}
    distances = {
        who: (None, None) if reference is None else reference_distance(p.images, prompts, reference)
        for who, p in pictures.items()
    }
    judge = scores["teacher"].get(heldout)
    wins = {who: None if judge is None else count_wins(s[heldout], judge) for who, s in scores.items()}
    return {
        "reward": table({who: np.asarray(combine_fn(s)) for who, s in scores.items()}),
        "heldout_reward": table({who: s.get(heldout) for who, s in scores.items()}),
        "accuracy": table({who: s.get(accuracy) for who, s in scores.items()}),
        "motion": table({who: guards.measure_motion(p.images) for who, p in pictures.items()}),
        "reference_distance": table({who: own for who, (own, _) in distances.items()}),
        "nearest_reference_distance": table({who: nearest for who, (_, nearest) in distances.items()}),
        "heldout_win_rate": table(wins),
        "rewards": {name: table({who: s[name] for who, s in scores.items()}) for name in scores["teacher"]},
    }
