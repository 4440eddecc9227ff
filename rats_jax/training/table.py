"""Compare teacher, untrained model and student on the same prompts and the same noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.evaluation.reference import Reference, reference_distance
from rats_jax.method.update import ParamsFn, RolloutFn
from rats_jax.training.experiment import Experiment
from rats_jax.types import Array, Batch, FrozenParams, Params, PromptInputs

CONTESTANTS = ("teacher", "untrained", "untrained_cfg", "student")
"""The rows of the table, by the keys of summary.json."""


class Pictures(NamedTuple):
    """What a contestant made of N prompts: NumPy arrays, or traced ones inside a program.

    Attributes:
        images: [N, H, W, 3] float32 in [0, 1].
        latents: [N, h, w, C] float32.
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


def make_evaluation_set(experiment: Experiment, prompts: Sequence[str], settings: Any) -> EvaluationSet:
    """Draw the prompts and the noise of the table.

    Args:
        experiment: for the shape of the latents.
        prompts: all prompts of the run.
        settings: num_prompts, batch_size and seed; prompts beyond the last repeat with other noise. Where no
            table is wanted, one batch for the sheets of samples.

    Returns:
        The set; the same for the same settings, whatever the run did before.
    """
    order = np.random.default_rng(settings.seed).permutation(len(prompts))
    count = settings.num_prompts or settings.batch_size
    chosen = [prompts[int(order[i % len(order)])] for i in range(count)]
    shape = (count, *experiment.pipeline.latent_shape)
    noise = np.asarray(jax.random.normal(jax.random.key(settings.seed), shape, jnp.float32))
    return EvaluationSet(chosen, noise, settings.batch_size)


def make_render_fn(
    experiment: Experiment, rollout_fn: RolloutFn, params_fn: ParamsFn
) -> Callable[..., Pictures]:
    """Compose sampling, decoding and scoring; jit the result.

    Args:
        experiment: the functions of the run.
        rollout_fn: which steps and guidance.
        params_fn: what it rolls out with, of the frozen base and `params`.

    Returns:
        render(params, frozen, monitors' params, batch, monitors' prompt inputs, noise) -> Pictures of arrays.
    """

    def render(
        params: Params,
        frozen: FrozenParams,
        monitor_params: Mapping[str, Params],
        batch: Batch,
        monitor_prompt: Mapping[str, PromptInputs],
        noise: Array,
    ) -> Pictures:
        embeds = experiment.pipeline.encode_fn(frozen.text_encoder, batch.prompt)
        latents = rollout_fn(params_fn(frozen.base, params), noise, embeds).latents
        images = jnp.clip(experiment.decode_fn(frozen.decoder, latents), 0.0, 1.0)
        scores = experiment.score_fn(frozen.rewards, images, batch.reward)
        scores |= experiment.monitor_fn(monitor_params, images, monitor_prompt)
        return Pictures(images, latents, scores)

    return render


def render_set(
    experiment: Experiment,
    render_fn: Callable[..., Any],
    params: Params,
    evaluation_set: EvaluationSet,
    *,
    num_batches: int | None = None,
) -> Pictures:
    """Run a jitted render function over the set.

    Args:
        experiment: for the tokenizers.
        render_fn: (params, batch, monitors' prompt inputs, noise) -> Pictures, frozen weights bound.
        params: of the contestant.
        evaluation_set: prompts and noise.
        num_batches: only so many batches from the start; None is all.

    Returns:
        NumPy arrays over the rendered prompts.
    """
    size, total = evaluation_set.batch_size, len(evaluation_set.prompts)
    parts = []
    for start in list(range(0, total, size))[:num_batches]:
        rows = np.arange(start, start + size) % total
        prompts = [evaluation_set.prompts[i] for i in rows]
        inputs = experiment.make_batch(prompts), experiment.make_monitor_inputs(prompts)
        result = render_fn(params, *inputs, evaluation_set.noise[rows])
        kept = slice(min(size, total - start))
        parts.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[kept], result))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def summarise(
    pictures: Mapping[str, Pictures],
    prompts: list[str],
    combine_fn: Callable[[Mapping[str, Any]], Any],
    *,
    heldout: str,
    reference: Reference | None,
) -> dict[str, Any]:
    """Average every score over the prompts, for each contestant.

    Args:
        pictures: by contestant.
        prompts: N texts.
        combine_fn: scores by name -> the trained reward [N].
        heldout: the name of the reward that judges, or empty.
        reference: the real pictures, or None.

    Returns:
        {"reward", "heldout_reward", "reference_distance", "nearest_reference_distance", "heldout_win_rate"}
        by contestant, None where there is nothing to measure against, and "rewards": every single reward by
        contestant, by name. The win rate is the share of prompts on which the contestant's held-out reward is
        above the teacher's.
    """

    def table(values: Mapping[str, np.ndarray | None]) -> dict[str, float | None]:
        return {who: None if value is None else float(np.mean(value)) for who, value in values.items()}

    scores = {who: p.scores for who, p in pictures.items()}
    distances = {
        who: (None, None) if reference is None else reference_distance(p.images, prompts, reference)
        for who, p in pictures.items()
    }
    judge = scores["teacher"].get(heldout)
    wins = {who: None if judge is None else s[heldout] > judge for who, s in scores.items()}
    return {
        "reward": table({who: np.asarray(combine_fn(s)) for who, s in scores.items()}),
        "heldout_reward": table({who: s.get(heldout) for who, s in scores.items()}),
        "reference_distance": table({who: own for who, (own, _) in distances.items()}),
        "nearest_reference_distance": table({who: nearest for who, (_, nearest) in distances.items()}),
        "heldout_win_rate": table(wins),
        "rewards": {name: table({who: s[name] for who, s in scores.items()}) for name in scores["teacher"]},
    }
