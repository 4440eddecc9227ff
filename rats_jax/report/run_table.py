"""The table that a run ends with: teacher, untrained model and student side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def format_table(summary: Mapping[str, Any]) -> str:
    """Lay out a summary as the table that a run ends with."""
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
        "reference_distance": "to own picture",
        "nearest_reference_distance": "to nearest",
    }
    # Runs of before it was measured have no accuracy.
    shown = {key: t for key, t in columns.items() if summary.get(key, {}).get("student") is not None}
    if guided_nfe == summary["nfe"] and all(
        summary[key]["untrained"] == summary[key]["untrained_cfg"] for key in shown
    ):
        del rows["untrained_cfg"]  # student and teacher have one guidance: there is one untrained model
    width = max(map(len, rows.values()))
    lines = [" " * width + "".join(f"{title:>16}" for title in shown.values())]
    for name, title in rows.items():
        lines.append(f"{title:<{width}}" + "".join(f"{summary[key][name]:>16.4f}" for key in shown))
    return "\n".join(lines)
