"""Tables and figure of a comparison of variants, with intervals and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # as in plots.py

from rats_jax.evaluation.fixed_set import SUM
from rats_jax.evaluation.measures import DIVERSITY, MOTION
from rats_jax.evaluation.statistics import count_wins, nested_bootstrap
from rats_jax.files import whole_file

TEACHER, UNTRAINED = "teacher", "untrained"
"""The variants that are not trained."""

Scores = Mapping[tuple[str, int], Mapping[str, np.ndarray]]
"""By (variant, student steps): [R, P, S] by measure, of R training seeds (1 of what is not trained), P
prompts and S pictures of each; of what is measured once for all pictures of a prompt, S is 1."""


def compare(
    scores: Scores,
    *,
    judge: str,
    measures: Sequence[str],
    against: str,
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Measure every variant against the teacher and against one of them.

    Args:
        scores: of all, TEACHER and UNTRAINED among them.
        judge: the measure whose wins against the teacher are counted.
        measures: those that are shown; higher is better, but for MOTION.
        against: the variant that the others are compared with.
        num_resamples, seed: of the bootstrap.

    Returns:
        "judge", "against", "teacher": its number of steps and mean of each measure; "rows": a dict for each
        variant and number of steps with "variant", "num_steps", "win_rate" (share of pictures that the judge
        holds for better than the teacher's, ties a half) and "measures": by name "mean" and the intervals
        "to_teacher" and "to_variant" (None for `against` itself and for what is not trained) of differences,
        both seeds and prompts drawn again.
    """

    def interval(differences: np.ndarray) -> dict[str, float]:
        pictures = differences.mean(axis=-1)
        return nested_bootstrap(pictures, num_resamples=num_resamples, seed=seed)._asdict()

    ((teacher_steps, teacher),) = (
        (steps, values) for (variant, steps), values in scores.items() if variant == TEACHER
    )
    rows = []
    for (variant, steps), values in scores.items():
        if variant == TEACHER:
            continue
        found = {}
        for name in measures:
            # The same seed gives the same noise and prompts in training: runs are compared in pairs.
            paired = variant not in (against, UNTRAINED)
            found[name] = {
                "mean": float(values[name].mean()),
                "to_teacher": interval(values[name] - teacher[name]),
                "to_variant": interval(values[name] - scores[against, steps][name]) if paired else None,
            }
        rows.append(
            {
                "variant": variant,
                "num_steps": steps,
                "win_rate": float(count_wins(values[judge], teacher[judge]).mean()),
                "measures": found,
            }
        )
    return {
        "judge": judge,
        "against": against,
        "teacher": {
            "num_steps": teacher_steps,
            "measures": {name: float(teacher[name].mean()) for name in measures},
        },
        "rows": rows,
    }


def format_tables(outcome: Mapping[str, Any]) -> str:
    """Lay the outcome out as two Markdown tables: means, and differences to `against` with their verdicts."""
    return f"{_format_means(outcome)}\n\n{_format_differences(outcome)}"


def _format_means(outcome: Mapping[str, Any]) -> str:
    """Show means; ▲ better and ▼ worse than the teacher, where the difference's interval leaves out 0."""
    teacher, names = outcome["teacher"], list(outcome["teacher"]["measures"])
    lines = table_head(["variant", "steps", *map(_title, names), "beats the teacher"])
    means = [_number(teacher["measures"][name]) for name in names]
    lines.append(table_row([TEACHER, teacher["num_steps"], *means, ""]))
    for row in outcome["rows"]:
        cells = []
        for name in names:
            value = row["measures"][name]
            sign = 0 if name == MOTION else _sign(value["to_teacher"])
            cells.append(_number(value["mean"]) + {1: " ▲", -1: " ▼", 0: ""}[sign])
        lines.append(table_row([row["variant"], row["num_steps"], *cells, f"{row['win_rate']:.0%}"]))
    return "\n".join(lines)


def _format_differences(outcome: Mapping[str, Any]) -> str:
    """Show `against` less each variant: won, lost or, where the interval contains 0, undecided."""
    against, names = outcome["against"], list(outcome["teacher"]["measures"])
    lines = table_head([f"{against} against", "steps", *map(_title, names)])
    for row in outcome["rows"]:
        intervals = [row["measures"][name]["to_variant"] for name in names]
        if None not in intervals:
            verdicts = [_verdict(*pair) for pair in zip(names, intervals, strict=True)]
            lines.append(table_row([row["variant"], row["num_steps"], *verdicts]))
    return "\n".join(lines)


def _title(measure: str) -> str:
    return "trained sum" if measure == SUM else measure


def _sign(interval: Mapping[str, float]) -> int:
    """Tell on which side of 0 a whole interval lies: 1, -1, or 0 if it contains it."""
    return int(interval["low"] > 0) - int(interval["high"] < 0)


def _verdict(measure: str, interval: Mapping[str, float]) -> str:
    """Word the interval of a variant less `against` from the side of `against`; of motion nothing is won."""
    mean, low, high = -interval["mean"], -interval["high"], -interval["low"]
    places = 4 if 1e-4 < high - low < 1e-2 else 3  # or one that leaves out 0 would seem to end there
    numbers = f"{mean:+z.{places}f} [{low:+z.{places}f}, {high:+z.{places}f}]"
    if measure == MOTION:
        return numbers
    return {1: f"lost {numbers}", -1: f"**won {numbers}**", 0: f"undecided {numbers}"}[_sign(interval)]


def table_head(titles: Sequence[str]) -> list[str]:
    """Begin a table of Markdown: its titles, and the line below them."""
    return [table_row(titles), table_row(["---"] * len(titles))]


def table_row(cells: Sequence[Any]) -> str:
    """Lay cells out as a line of a table of Markdown."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _number(value: float) -> str:
    return f"{value:.3f}"


def draw(outcomes: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draw each variant's difference to the teacher by the judge.

    Args:
        outcomes: from `compare`, by set of prompts; a row of panels for each, a panel for each number of
            student steps.
        file: PNG to write.
    """
    first = next(iter(outcomes.values()))
    steps = sorted({row["num_steps"] for row in first["rows"]})
    names = list(dict.fromkeys(row["variant"] for row in first["rows"]))
    size = 3.2 * len(steps) + 2, (0.36 * len(names) + 0.9) * len(outcomes) + 0.5
    figure = Figure(figsize=size)
    axes = figure.subplots(len(outcomes), len(steps), sharex=True, sharey=True, squeeze=False)
    for line, (title, outcome) in zip(axes, outcomes.items(), strict=True):
        for axis, count in zip(line, steps, strict=True):
            axis.axvline(0.0, color="0.4", linewidth=0.8)
            for row in (row for row in outcome["rows"] if row["num_steps"] == count):
                place = names.index(row["variant"])
                interval: Any = row["measures"][outcome["judge"]]["to_teacher"]
                colour = {outcome["against"]: "C3", UNTRAINED: "0.5"}.get(row["variant"], "C0")
                axis.plot([interval["low"], interval["high"]], [place, place], color=colour, linewidth=2)
                axis.plot(interval["mean"], place, "o", color=colour)
            axis.set_title(f"{title}; trained for {count} steps" if len(outcomes) > 1 else f"{count} steps")
            axis.grid(alpha=0.3)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    judge, teacher = first["judge"], first["teacher"]["num_steps"]
    figure.supxlabel(f"{judge} reward, student - teacher of {teacher} steps", fontsize=10)
    figure.tight_layout()
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=120, format="png")


def shown_measures(config: Any, names: Sequence[str]) -> list[str]:
    """Choose what the tables show of what was measured: the trained sum, monitors, diversity, motion.

    Args:
        config: of a run.
        names: of all that was measured.
    """
    order = [SUM, config.heldout_reward, *sorted(config.monitor), DIVERSITY, MOTION]
    return [name for name in dict.fromkeys(order) if name in names]
