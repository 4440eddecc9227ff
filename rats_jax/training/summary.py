"""Summary of a finished run: the table, the curves, summary.json."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rats_jax.errors import DivergedError
from rats_jax.evaluation.reference import Reference
from rats_jax.files import write_whole
from rats_jax.report import run_table
from rats_jax.rewards.judge import ACCURACY
from rats_jax.texts import show
from rats_jax.training import table
from rats_jax.training.logbook import Logbook
from rats_jax.training.program import Program
from rats_jax.training.table import EvaluationSet, Pictures
from rats_jax.types import TrainState
from rats_jax.workdir.loggers import Loggers
from rats_jax.workdir.metrics import LEAD_WINDOW, first_update_student_leads, read_metrics
from rats_jax.workdir.services import Table

_UNSEEN = "table of unseen prompts"  # as loggers call it


def finish(
    program: Program,
    config: Any,
    state: TrainState,
    book: Logbook,
    loggers: Loggers,
    *,
    workdir: str,
    writes: bool,
) -> dict[str, Any]:
    """Fill the table, write summary.json and print both.

    Args:
        program: of the run.
        config: fields as in configs/default.py.
        state: after the last update.
        book: of the run.
        loggers: of the run, which get the tables.
        workdir: of the run, for messages.
        writes: whether this process writes.

    Returns:
        The content of summary.json.

    Raises:
        DivergedError: a score of the table is not finite.
    """
    summary: dict[str, Any] = {}
    if program.evaluation_set is not None:
        summary = _score(program, config, state, program.evaluation_set, program.reference)
    if program.heldout_set is not None:
        summary["heldout_prompts"] = _score(program, config, state, program.heldout_set, None)
    summary |= {
        "nfe": program.experiment.nfe,
        "teacher_nfe": program.experiment.teacher_nfe,
        "guided_nfe": program.experiment.guided_nfe,
        "updates": int(state.step),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "seconds": book.seconds,
        "compile_seconds": program.compile_seconds,
        "student_num_steps": config.student.num_steps,
    }
    if writes:
        records = read_metrics(book.folder)
        summary |= _read_curves(records)
        found = {} if program.evaluation_set is None else {"table": summary}
        if "heldout_prompts" in summary:
            found[_UNSEEN] = summary | summary["heldout_prompts"]
        shown = [run_table.format_table(scores) for scores in found.values()]
        if _UNSEEN in found:
            shown[-1] = f"prompts that training did not see\n{shown[-1]}"
        show("\n" + "\n\n".join([*shown, _conclude(summary)]))  # then a full disk takes nothing
        write_whole(book.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        tables = {name: Table(*run_table.lay_out(scores)) for name, scores in found.items()}
        loggers.log_tables(int(state.step), tables)
        from rats_jax.report.curves import draw_curves  # matplotlib: a run should not start by importing it

        draw_curves(records, book.folder / "curves.png", leads=summary["first_update_student_leads"])
        show(f"{workdir.rstrip('/')}/summary.json")
    return summary


def _score(
    program: Program, config: Any, state: TrainState, chosen: EvaluationSet, reference: Reference | None
) -> dict[str, Any]:
    """Fill the table; its teacher is the pretrained model with all its steps."""
    render_fns, untrained = program.render_fns, program.pretrained
    contestants = {
        "teacher": (render_fns["teacher"], untrained.teacher),
        "untrained": (render_fns["student"], untrained.student),
        "untrained_cfg": (render_fns["untrained_cfg"], untrained.student),
        "student": (render_fns["student"], state.drawn),
    }
    one_guidance = config.student.guidance_scale == config.teacher.guidance_scale
    pictures: dict[str, Pictures] = {}
    for name, (render, params) in contestants.items():
        if name == "untrained_cfg" and one_guidance:  # it is the untrained student
            pictures[name] = pictures["untrained"]
        else:
            pictures[name] = table.render_set(program.experiment, render, params, chosen)
        _expect_finite(name, pictures[name], chosen.prompts)
    return table.summarise(
        pictures,
        chosen.prompts,
        lambda scores: program.experiment.objective.combine_fn(scores, state.rewards),
        heldout=config.heldout_reward,
        accuracy=next((name for name, judge in config.monitor.items() if judge.kind in ACCURACY), ""),
        reference=reference,
    )


def _expect_finite(contestant: str, pictures: Pictures, prompts: Sequence[str]) -> None:
    """Raise what says which score of a contestant is not finite, and of which prompt."""
    for name, values in pictures.scores.items():
        finite = np.isfinite(values)
        if not finite.all():
            raise DivergedError(
                f"table: {np.sum(~finite)} of {len(values)} scores {name!r} of the {contestant}'s pictures "
                f"are not finite, that of {prompts[int(finite.argmin())]!r} is the first: expected finite "
                "numbers; the last update is saved"
            )


def _read_curves(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Read from the metrics what the summary wants."""
    updates = [r["step"] for r in records]
    leads = first_update_student_leads(
        updates, [r["reward/student"] for r in records], [r["reward/teacher"] for r in records]
    )
    # The median step: compilation, pictures and checkpoints fall between a few updates only.
    rates = [
        (after["time/elapsed"] - before["time/elapsed"]) / (after["step"] - before["step"])
        for before, after in zip(records, records[1:], strict=False)
    ]
    return {
        "first_update_student_leads": leads,
        "seconds_per_update": float(np.median(rates)) if rates else None,
    }


def _conclude(summary: Mapping[str, Any]) -> str:
    """Say in one line how long the run took and when its student took the lead."""
    leads = summary["first_update_student_leads"]
    when = f"the student leads from update {leads}"
    if leads is None:
        few = summary["updates"] < LEAD_WINDOW
        when = "too few to say who leads" if few else "the student does not lead its teacher"
    return f"{summary['updates']} updates in {summary['seconds'] / 60:.1f} minutes; {when}"
