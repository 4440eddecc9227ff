"""Curves of a comparison: reward, gap and gate of each variant over its updates, mean over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # as in plots.py

from rats_jax.ablation.plan import Job
from rats_jax.ablation.table import table_head, table_row
from rats_jax.files import whole_file
from rats_jax.report.curves import moving_average
from rats_jax.workdir.metrics import first_update_student_leads, read_metrics

_KEYS = {"student": "reward/student", "teacher": "reward/teacher", "gap": "reward/gap", "gate": "gate/mean"}
_WINDOW = 20

Curves = Mapping[tuple[str, int], Mapping[str, np.ndarray]]
"""By (variant, student steps): [R, N] by name, of R seeds and N logged updates; "updates" [N]."""


def read_curves(jobs: Sequence[Job]) -> Curves:
    """Read what the runs of a comparison logged."""
    found: dict[tuple[str, int], list[dict[str, np.ndarray]]] = {}
    for job in jobs:
        if job.seed < 0:
            continue
        records = read_metrics(job.folder)
        values: dict[str, Any] = {name: [r[key] for r in records] for name, key in _KEYS.items()}
        run = {name: np.array([np.nan if v is None else v for v in row]) for name, row in values.items()}
        run["updates"] = np.array([r["step"] for r in records])
        found.setdefault((job.variant, job.num_steps), []).append(run)
    return {
        key: {name: np.stack([run[name] for run in runs]) for name in _KEYS} | {"updates": runs[0]["updates"]}
        for key, runs in found.items()
    }


def summarise(curves: Curves) -> list[dict[str, Any]]:
    """Say when students take the lead, how far they get, and what the gate does.

    Returns:
        For each variant and number of steps: "leads", the update from which the student leads, of each seed
        or None; "gap" and "gate": means over the seeds and the first and last `_WINDOW` updates, of teacher -
        student and of the gate; "mean_gate" over all updates; "gap_deviation", from update to update.
    """
    rows = []
    for (variant, steps), values in curves.items():
        leads = [
            first_update_student_leads(values["updates"].tolist(), student.tolist(), teacher.tolist())
            for student, teacher in zip(values["student"], values["teacher"], strict=True)
        ]
        ends = {
            name: [float(values[name][:, part].mean()) for part in (slice(_WINDOW), slice(-_WINDOW, None))]
            for name in ("gap", "gate")
        }
        row = {"variant": variant, "num_steps": steps, "leads": leads, **ends}
        row["mean_gate"] = float(values["gate"].mean())
        row["gap_deviation"] = float(np.std(np.diff(values["gap"], axis=1)) / np.sqrt(2.0))
        rows.append(row)
    return rows


def format_training(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay the summary out as Markdown."""
    titles = "variant|steps|gap at first|at the end|its deviation|gate at first|at the end|mean|leads from"
    lines = table_head(titles.split("|"))
    for row in rows:
        (gap, gap_end), (gate, gate_end) = row["gap"], row["gate"]
        leads = ", ".join("never" if update is None else str(update) for update in row["leads"])
        cells = [f"{gap:+.3f}", f"{gap_end:+.3f}", f"{row['gap_deviation']:.3f}"]
        cells += [f"{gate:.2f}", f"{gate_end:.2f}", f"{row['mean_gate']:.2f}"]
        lines.append(table_row([row["variant"], row["num_steps"], *cells, leads]))
    return "\n".join(lines)


def draw_curves(curves: Curves, file: Path) -> None:
    """Draw reward, gap and gate of all variants: a column for each number of student steps.

    Args:
        curves: from `read_curves`.
        file: PNG to write.
    """
    steps = sorted({count for _, count in curves})
    names = list(dict.fromkeys(variant for variant, _ in curves))
    figure = Figure(figsize=(4.2 * len(steps) + 2, 8), layout="constrained")
    axes = figure.subplots(3, len(steps), sharex=True, sharey="row", squeeze=False)
    for column, count in enumerate(steps):
        for place, name in enumerate(name for name in names if (name, count) in curves):
            values = curves[name, count]
            for axis, key in zip(axes[:, column], ("student", "gap", "gate"), strict=True):
                smooth = moving_average(values[key].mean(axis=0), _WINDOW)
                axis.plot(values["updates"], smooth, color=f"C{place}", label=name, linewidth=1.2)
        axes[0, column].set_title(f"{count} steps")
        axes[1, column].axhline(0.0, color="0.4", linewidth=0.8)
        axes[2, column].set(ylim=(-0.03, 1.03), xlabel="update")
    for axis, label in zip(
        axes[:, 0], ("reward of the student", "gap, teacher - student", "gate"), strict=True
    ):
        axis.set_ylabel(label)
    axes[0, 0].legend(fontsize=7)
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=120, format="png")
