"""Reward hacking: the training reward rises while what it stands for falls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# A guard counts once it has left the teacher's by this share: the pictures of two good models differ too.
_TOLERANCE = 0.1


def health(record: Mapping[str, Any]) -> dict[str, float]:
    """Read how well the student does on what it is not trained on.

    Args:
        record: a line of samples.jsonl: "monitor/NAME/student" and "guard/NAME/student" with the same of
            "teacher"; a guard without a teacher's value stands for itself.

    Returns:
        By name, higher is better: monitored rewards as they are; guards as minus their distance from the
        teacher's, as a share of it, 0 while that is below 0.1.
    """
    values = {}
    for key, value in record.items():
        kind, _, rest = key.partition("/")
        name, _, who = rest.rpartition("/")
        if who != "student" or kind not in ("monitor", "guard"):
            continue
        teacher = record.get(f"{kind}/{name}/teacher")
        if kind == "guard" and teacher is not None:
            drift = abs(value - teacher) / max(abs(teacher), 1e-6)
            values[f"{kind}/{name}"] = -drift if drift > _TOLERANCE else 0.0
        else:
            values[f"{kind}/{name}"] = value
    return values


def rank(record: Mapping[str, Any], *, judge: str) -> float:
    """Rank a checkpoint by anything but the reward that it was trained on, higher is better.

    Args:
        record: as in `health`.
        judge: the name of a monitored reward, or empty for the sum of all that `health` reads.
    """
    values = health(record)
    return values[f"monitor/{judge}"] if judge else sum(values.values())


def find_hacking(records: Sequence[Mapping[str, Any]], *, patience: int) -> list[str]:
    """Name what fell at each of the last evaluations, while the training reward rose at each.

    Args:
        records: lines of samples.jsonl, in order.
        patience: evaluations in a row, at least 1.

    Returns:
        Names as `health` gives them; empty with fewer than patience + 1 records.
    """
    recent = records[-patience - 1 :]
    if len(recent) <= patience:
        return []
    pairs = list(zip(recent, recent[1:], strict=False))
    if not all(after["reward/student"] > before["reward/student"] for before, after in pairs):
        return []
    states = [health(record) for record in recent]
    return [
        name
        for name in states[0]
        if all(after[name] < before[name] for before, after in zip(states, states[1:], strict=False))
    ]
