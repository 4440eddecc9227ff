"""Curves of a run: rewards, their gap and the gate over its updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # not pyplot: needs no display, and nothing has to be closed

from rats_jax.files import whole_file


def draw_curves(
    records: Sequence[Mapping[str, Any]], file: Path, *, leads: int | None, window: int = 20
) -> None:
    """Draw student and teacher reward, their gap and the gate over the updates.

    Args:
        records: lines of metrics.jsonl.
        file: PNG to write.
        leads: the update from which the student leads, marked; None for none.
        window: updates of the moving average; single updates are drawn faintly.
    """
    updates = np.array([r["step"] for r in records])
    figure = Figure(figsize=(7, 8), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    panels = [
        (axes[0], "reward", {"student": "reward/student", "teacher": "reward/teacher"}),
        (axes[1], "gap, teacher - student", {"gap": "reward/gap"}),
        (axes[2], "gate", {"gate": "gate/mean"}),
    ]
    for axis, label, curves in panels:
        for i, (name, key) in enumerate(curves.items()):
            values = np.array([np.nan if r[key] is None else r[key] for r in records], np.float64)
            axis.plot(updates, values, color=f"C{i}", alpha=0.25, linewidth=0.8)
            axis.plot(updates, moving_average(values, window), color=f"C{i}", label=name)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if leads is not None:
            axis.axvline(leads, color="0.4", linestyle="--", linewidth=0.8)
    axes[0].legend()
    axes[1].axhline(0.0, color="0.4", linewidth=0.8)
    axes[2].set_ylim(0.0, 1.0)
    axes[2].set_xlabel("update" if leads is None else f"update (the student leads from {leads})")
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=120, format="png")


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Average each value with the window - 1 before it; NaN until there are as many."""
    if len(values) < window:
        return np.full(len(values), np.nan)
    means = np.convolve(values, np.ones(window) / window, mode="valid")
    return np.concatenate([np.full(window - 1, np.nan), means])
