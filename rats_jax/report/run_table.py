"""The table that a run ends with: teacher, untrained model and student side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def format_table(summary: Mapping[str, Any]) -> str:
    """Lay out a summary as the table that a run ends with."""
    (_, *titles), rows = lay_out(summary)
    width = max(len(title) for title, *_ in rows)
    lines = [" " * width + "".join(f"{title:>16}" for title in titles)]
    for title, *cells in rows:
        lines.append(f"{title:<{width}}" + "".join(f"{cell:>16.4f}" for cell in cells))
    return "\n".join(lines)


def lay_out(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Give the columns of that table, the first of which says what a row is of, and its rows."""
    # Runs of before this was counted had classifier-free guidance alone.
    guided_nfe = summary.get("guided_nfe") or 2 * summary["student_num_steps"]
    rows = {
        "teacher": f"teacher, {summary['teacher_nfe']} evaluations",
        "untrained": f"untrained, {summary['nfe']} evaluations",
        "untrained_cfg": f"untrained with guidance, {guided_nfe} evaluations",
        "student": f"student, {summary['nfe']} evaluations",
    }
    columns = {
        "reward": "reward",
        "heldout_reward": "held-out",
        "heldout_win_rate": "beats teacher",
        "accuracy": "accuracy",
        "motion": "motion",
        "reference_distance": "to own picture",
        "nearest_reference_distance": "to nearest",
    }
    # Runs of before it was measured have no accuracy, or no motion.
    shown = {key: t for key, t in columns.items() if summary.get(key, {}).get("student") is not None}
    if guided_nfe == summary["nfe"] and all(
        summary[key]["untrained"] == summary[key]["untrained_cfg"] for key in shown
    ):
        del rows["untrained_cfg"]  # student and teacher have one guidance: there is one untrained model
    cells = [[title, *(summary[key][name] for key in shown)] for name, title in rows.items()]
    return ["contestant", *shown.values()], cells
