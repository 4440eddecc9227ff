"""What a run shows: its sheets of samples, its final scores, its curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.evaluation import guards
from rats_jax.evaluation.reference import Reference
from rats_jax.report import figures
from rats_jax.training import table
from rats_jax.training.experiment import Experiment
from rats_jax.training.table import EvaluationSet, Pictures
from rats_jax.types import Params, TrainState
from rats_jax.workdir.metrics import first_update_student_leads, read_metrics

RenderFn = Callable[..., Pictures]
"""(params, batch, monitors' prompt inputs, noise) -> Pictures, frozen weights bound."""


class Pretrained(NamedTuple):
    """What the contestants that were not trained roll out with, as student and as teacher."""

    student: Params
    teacher: Params


_GUARDS = {name: jax.jit(guard) for name, guard in guards.PICTURE_GUARDS.items()}
_DIVERSITY = jax.jit(guards.diversity)


def draw_samples(
    experiment: Experiment,
    render_fns: Mapping[str, RenderFn],
    state: TrainState,
    fixed: Mapping[str, Pictures],
    evaluation_set: EvaluationSet,
    count: int,
) -> tuple[Any, dict[str, float]]:
    """Draw teacher, untrained and student side by side, and measure them.

    Args:
        experiment: the functions of the run.
        render_fns: by contestant.
        state: of the run.
        fixed: the rows that do not change from sheet to sheet, from `fixed_rows`.
        evaluation_set: its first batch is rendered and measured.
        count: pictures on the sheet.

    Returns:
        The sheet, with reward and gate under each picture, and a record of the whole batch: rewards,
        monitored rewards and guards, of student and teacher.
    """
    rows = dict(fixed)
    if "teacher" not in rows:
        rows["teacher"] = _render(experiment, render_fns["teacher"], state.teacher, evaluation_set)
    rows["student"] = _render(experiment, render_fns["student"], state.student, evaluation_set)
    rewards = {name: _combined(experiment, state, pictures) for name, pictures in rows.items()}
    captions = {}
    for name, reward in rewards.items():
        gate_on = experiment.gate_reward
        judged = {who: rows[who].scores[gate_on] if gate_on else rewards[who] for who in ("teacher", name)}
        gate, _ = experiment.gate_fn(jnp.asarray(judged["teacher"]), jnp.asarray(judged[name]), state.gap)
        captions[name] = [f"{r:.3f}  gate {g:.2f}" for r, g in zip(reward, np.asarray(gate), strict=True)]
    captions["teacher"] = [f"{r:.3f}" for r in rewards["teacher"]]
    order = ("teacher", "untrained", "student")
    images = {name: rows[name].images[:count] for name in order}
    sheet = figures.draw_sheet(images, captions, evaluation_set.prompts[: len(images["teacher"])])

    record = {f"reward/{name}": float(np.mean(rewards[name])) for name in order}
    for who in ("student", "teacher"):
        measured = {f"monitor/{name}": rows[who].scores[name] for name in experiment.monitors}
        measured |= {f"guard/{name}": guard(rows[who].images) for name, guard in _GUARDS.items()}
        measured |= {"guard/latent_std": np.std(rows[who].latents)}
        measured |= {"guard/latent_mean_square": np.mean(np.square(rows[who].latents))}
        record |= {f"{name}/{who}": float(np.mean(values)) for name, values in measured.items()}
    return sheet, record


def fixed_rows(
    experiment: Experiment,
    render_fns: Mapping[str, RenderFn],
    pretrained: Pretrained,
    evaluation_set: EvaluationSet,
    *,
    teacher_moves: bool,
) -> dict[str, Pictures]:
    """Render once what every sheet shows again: the untrained model, and a teacher that stays as it was."""
    rows = {"untrained": _render(experiment, render_fns["student"], pretrained.student, evaluation_set)}
    if not teacher_moves:
        rows["teacher"] = _render(experiment, render_fns["teacher"], pretrained.teacher, evaluation_set)
    return rows


def measure_diversity(
    experiment: Experiment,
    render_fns: Mapping[str, RenderFn],
    state: TrainState,
    prompts: list[str],
    size: int,
) -> float:
    """Render several seeds of a few prompts with the student: how much its pictures still differ.

    Args:
        experiment, render_fns, state: of the run.
        prompts: those of the evaluation set.
        size: of the device program; so many pictures are drawn, four of a prompt.
    """
    seeds = min(4, size)
    chosen = [prompt for prompt in prompts[: max(size // seeds, 1)] for _ in range(seeds)]
    shape = (len(chosen), *experiment.pipeline.latent_shape)
    noise = np.asarray(jax.random.normal(jax.random.key(0), shape, jnp.float32))
    pictures = _render(experiment, render_fns["student"], state.student, EvaluationSet(chosen, noise, size))
    return float(np.mean(_DIVERSITY(pictures.images.reshape(-1, seeds, *pictures.images.shape[1:]))))


def _render(
    experiment: Experiment, render: RenderFn, params: Params, evaluation_set: EvaluationSet
) -> Pictures:
    return table.render_set(experiment, render, params, evaluation_set, num_batches=1)


def _combined(experiment: Experiment, state: TrainState, pictures: Pictures) -> np.ndarray:
    return np.asarray(experiment.combine_fn(pictures.scores, state.rewards))


def score(
    experiment: Experiment,
    render_fns: Mapping[str, RenderFn],
    state: TrainState,
    pretrained: Pretrained,
    evaluation_set: EvaluationSet,
    *,
    heldout: str,
    reference: Reference | None,
) -> dict[str, Any]:
    """Fill the table; its teacher is the pretrained model with all its steps."""
    contestants = {
        "teacher": (render_fns["teacher"], pretrained.teacher),
        "untrained": (render_fns["student"], pretrained.student),
        "untrained_cfg": (render_fns["untrained_cfg"], pretrained.student),
        "student": (render_fns["student"], state.student),
    }
    pictures = {
        name: table.render_set(experiment, render, params, evaluation_set)
        for name, (render, params) in contestants.items()
    }
    return table.summarise(
        pictures,
        evaluation_set.prompts,
        lambda scores: experiment.combine_fn(scores, state.rewards),
        heldout=heldout,
        reference=reference,
    )


def curves(workdir: Path) -> dict[str, Any]:
    """Draw the curves and read from them what the summary wants."""
    records = read_metrics(workdir)
    updates = [r["step"] for r in records]
    leads = first_update_student_leads(
        updates, [r["reward/student"] for r in records], [r["reward/teacher"] for r in records]
    )
    from rats_jax.report.curves import draw_curves

    draw_curves(records, workdir / "curves.png", leads=leads)
    # The median step: compilation, pictures and checkpoints fall between a few updates only.
    rates = [
        (after["time/elapsed"] - before["time/elapsed"]) / (after["step"] - before["step"])
        for before, after in zip(records, records[1:], strict=False)
    ]
    return {
        "first_update_student_leads": leads,
        "seconds_per_update": float(np.median(rates)) if rates else None,
    }


def conclusion(summary: Mapping[str, Any]) -> str:
    """Say in one line how long the run took and when its student took the lead."""
    leads = summary["first_update_student_leads"]
    when = "the student never led its teacher" if leads is None else f"the student leads from update {leads}"
    return f"{summary['updates']} updates in {summary['seconds'] / 60:.1f} minutes; {when}"
