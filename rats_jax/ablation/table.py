"""Table and figure of a comparison of variants, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # as in plots.py

from rats_jax.evaluation.fixed_set import SUM
from rats_jax.evaluation.statistics import Interval, nested_bootstrap
from rats_jax.files import whole_file

TEACHER, UNTRAINED = "teacher", "untrained"
"""The variants that are not trained."""


def compare(
    scores: Mapping[tuple[str, int], Mapping[str, np.ndarray]],
    *,
    judge: str,
    against: str,
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Measure every variant against the teacher and against one of them.

    Args:
        scores: by (variant, student steps), TEACHER and UNTRAINED among them: [R, P] by reward, of R training
            seeds (1 of what is not trained) and P prompts.
        judge: the held-out reward.
        against: the variant that the others are compared with.
        num_resamples, seed: of the bootstrap.

    Returns:
        "judge", "against", "teacher": means of the teacher; "rows": a dict for each variant and number of
        steps with "variant", "num_steps", "reward" (the trained sum, or None), "heldout", "win_rate" (share
        of pictures that the judge holds for better than the teacher's, ties a half) and the intervals
        "to_teacher" and "to_variant" (None for `against` itself and for what is not trained): differences of
        the held-out reward, both seeds and prompts drawn again.
    """

    def interval(differences: np.ndarray) -> dict[str, float]:
        return nested_bootstrap(differences, num_resamples=num_resamples, seed=seed)._asdict()

    ((teacher_steps, teacher),) = (
        (steps, values) for (variant, steps), values in scores.items() if variant == TEACHER
    )
    rows = []
    for (variant, steps), values in scores.items():
        if variant == TEACHER:
            continue
        heldout = values[judge]
        gap = heldout - teacher[judge]
        row = {
            "variant": variant,
            "num_steps": steps,
            "reward": float(values[SUM].mean()) if SUM in values else None,
            "heldout": float(heldout.mean()),
            "win_rate": float(((gap > 0) + 0.5 * (gap == 0)).mean()),
            "to_teacher": interval(gap),
            "to_variant": None,
        }
        if variant not in (against, UNTRAINED):
            # The same seed gives the same noise and prompts in training: runs are compared in pairs.
            row["to_variant"] = interval(heldout - scores[against, steps][judge])
        rows.append(row)
    means = {name: float(values.mean()) for name, values in teacher.items()}
    return {
        "judge": judge,
        "against": against,
        "teacher": {"num_steps": teacher_steps, "reward": means.get(SUM), "heldout": means[judge]},
        "rows": rows,
    }


def format_table(outcome: Mapping[str, Any]) -> str:
    """Lay the outcome out as Markdown; an interval without 0 is bold."""
    against, teacher = outcome["against"], outcome["teacher"]
    titles = [
        *("variant", "steps", "trained sum", "held-out"),
        *("held-out, to the teacher", f"held-out, to {against}", "beats the teacher"),
    ]
    lines = [_row(titles), _row(["---"] * len(titles))]
    lines.append(
        _row(
            [
                "teacher",
                teacher["num_steps"],
                _number(teacher["reward"]),
                _number(teacher["heldout"]),
                "",
                "",
                "",
            ]
        )
    )
    for row in outcome["rows"]:
        cells = [row["variant"], row["num_steps"], _number(row["reward"]), _number(row["heldout"])]
        cells += [_interval(row["to_teacher"]), _interval(row["to_variant"]), f"{row['win_rate']:.0%}"]
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return ""
    mean, low, high = (f"{interval[name]:+z.3f}" for name in Interval._fields)
    text = f"{mean} [{low}, {high}]"
    return f"**{text}**" if interval["low"] > 0 or interval["high"] < 0 else text


def draw(outcome: Mapping[str, Any], file: Path) -> None:
    """Draw each variant's difference to the teacher, a panel for each number of student steps."""
    rows = outcome["rows"]
    steps = sorted({row["num_steps"] for row in rows})
    names = list(dict.fromkeys(row["variant"] for row in rows))
    figure = Figure(figsize=(3.2 * len(steps) + 2, 0.36 * len(names) + 1.4))
    axes = figure.subplots(1, len(steps), sharex=True, sharey=True, squeeze=False)
    for axis, count in zip(axes[0], steps, strict=True):
        axis.axvline(0.0, color="0.4", linewidth=0.8)
        for row in (row for row in rows if row["num_steps"] == count):
            place, interval = names.index(row["variant"]), row["to_teacher"]
            colour = {outcome["against"]: "C3", UNTRAINED: "0.5"}.get(row["variant"], "C0")
            axis.plot([interval["low"], interval["high"]], [place, place], color=colour, linewidth=2)
            axis.plot(interval["mean"], place, "o", color=colour)
        axis.set_title(f"{count} steps")
        axis.grid(alpha=0.3)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    figure.supxlabel(
        f"held-out reward, student - teacher of {outcome['teacher']['num_steps']} steps", fontsize=10
    )
    figure.tight_layout()
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=120, format="png")
