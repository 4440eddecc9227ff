"""Metrics of a run: metrics.jsonl, TensorBoard events, and what is read from them afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from tensorboardX import SummaryWriter

_FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends one flat JSON object per logged update to metrics.jsonl, and the same to TensorBoard."""

    def __init__(self, workdir: str | Path, *, step: int):
        """Open the files of a run, made if there are none.

        Args:
            workdir: folder of the run.
            step: updates that the run has made; later lines, of updates that will be made again, are dropped.
        """
        folder = Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _FILE
        kept = [record for record in read_metrics(path) if record["step"] <= step] if path.exists() else []
        partial = path.with_suffix(".tmp")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        partial.replace(path)
        self._lines = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the line {"step": step, name: number, ...}; a number that is not finite is null."""
        record: dict[str, Any] = {"step": int(step)}
        for name, value in metrics.items():
            number = float(value)
            record[name] = number if math.isfinite(number) else None
            self._events.add_scalar(name, number, step)
        self._lines.write(json.dumps(record) + "\n")
        self._lines.flush()

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Add a picture to TensorBoard: [H, W, 3], uint8 or float in [0, 1]."""
        self._events.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write out what is buffered and close the files."""
        self._lines.close()
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the records of a metrics.jsonl, in order; a last line that was cut off is left out.

    Args:
        path: the file, or the run's folder.

    Returns:
        One dict per line: `step` int, all else float, or None where it was not finite.
    """
    file = Path(path)
    lines = (file / _FILE if file.is_dir() else file).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def first_update_student_leads(
    updates: Sequence[int], student: Sequence[float], teacher: Sequence[float], window: int = 20
) -> int | None:
    """Find the first update from which on the student's smoothed reward stays above the teacher's.

    Args:
        updates: [N] numbers of the logged updates, ascending, counted from 1.
        student: [N] mean student reward of each.
        teacher: [N] mean teacher reward of each.
        window: smoothing: update u counts those logged in u - window + 1 .. u, and none before u = window.

    Returns:
        The first u whose mean student reward is above the mean teacher reward, as it is at every later one;
        None if the student does not lead at the end.
    """
    at = np.asarray(updates)
    gap = np.asarray(student, np.float64) - np.asarray(teacher, np.float64)
    first = None
    for update in at[at >= window]:
        leads = gap[(at > update - window) & (at <= update)].mean() > 0
        first = (first if first is not None else int(update)) if leads else None
    return first
