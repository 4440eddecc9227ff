"""What a run shows: its sheets of samples, its final scores, its curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax import evaluate
from rats_jax.evaluate import EvaluationSet, Pictures
from rats_jax.experiment import Experiment
from rats_jax.runtime import figures
from rats_jax.runtime.metrics import first_update_student_leads, read_metrics
from rats_jax.types import Params, TrainState

RenderFn = Callable[..., dict[str, jax.Array]]
"""(params, batch, held-out prompt inputs, noise) -> as `evaluate.make_render_fn`, frozen weights bound."""


def draw_samples(
    experiment: Experiment,
    render_fns: Mapping[str, RenderFn],
    state: TrainState,
    pretrained: Params,
    evaluation_set: EvaluationSet,
    count: int,
) -> Any:
    """Draw teacher, untrained and student side by side, with reward and gate under each picture."""
    rows: dict[str, Pictures] = {}
    for name, render, params in (
        ("teacher", "teacher", state.teacher),
        ("untrained", "student", pretrained),
        ("student", "student", state.student),
    ):
        rows[name] = evaluate.render_set(
            experiment, render_fns[render], params, evaluation_set, num_batches=1
        )
    captions = {}
    for name, pictures in rows.items():
        rewards = jnp.asarray(rows["teacher"].reward), jnp.asarray(pictures.reward)
        gate, _ = experiment.gate_fn(*rewards, state.gap)
        captions[name] = [
            f"{r:.3f}  gate {g:.2f}" for r, g in zip(pictures.reward, np.asarray(gate), strict=True)
        ]
    captions["teacher"] = [f"{r:.3f}" for r in rows["teacher"].reward]
    images = {name: pictures.images[:count] for name, pictures in rows.items()}
    return figures.draw_sheet(images, captions, evaluation_set.prompts[: len(images["teacher"])])


def score(
    experiment: Experiment,
    render_fns: Mapping[str, RenderFn],
    state: TrainState,
    pretrained: Params,
    evaluation_set: EvaluationSet,
    reference: evaluate.Reference | None,
) -> dict[str, Any]:
    """Fill the table; its teacher is the pretrained model with all its steps."""
    contestants = {
        "teacher": (render_fns["teacher"], pretrained),
        "untrained": (render_fns["student"], pretrained),
        "untrained_cfg": (render_fns["untrained_cfg"], pretrained),
        "student": (render_fns["student"], state.student),
    }
    pictures = {
        name: evaluate.render_set(experiment, render, params, evaluation_set)
        for name, (render, params) in contestants.items()
    }
    scores = evaluate.summarise(pictures, evaluation_set.prompts, reference)
    return {"nfe": experiment.nfe, "teacher_nfe": experiment.teacher_nfe, **scores}


def curves(workdir: Path) -> dict[str, Any]:
    """Draw the curves and read from them what the summary wants."""
    records = read_metrics(workdir)
    updates = [r["step"] for r in records]
    leads = first_update_student_leads(
        updates, [r["reward/student"] for r in records], [r["reward/teacher"] for r in records]
    )
    figures.draw_curves(records, workdir / "curves.png", leads=leads)
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
    leads = summary["first_update_student_leads"]
    when = "the student never led its teacher" if leads is None else f"the student leads from update {leads}"
    return f"{summary['updates']} updates in {summary['seconds'] / 60:.1f} minutes; {when}"
