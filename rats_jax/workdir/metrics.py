"""Metrics of a run: metrics.jsonl, TensorBoard events, and what is read from them afterwards."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
from absl import logging

from rats_jax.files import write_whole
from rats_jax.texts import parse_json


@contextmanager
def _without_torch() -> Iterator[None]:
    """Import without torch, as every command wants it: USE_TORCH=0, which only transformers knows."""
    hidden = os.environ.get("USE_TORCH") == "0" and "torch" not in sys.modules
    modules: dict[str, Any] = sys.modules
    if hidden:
        modules["torch"] = None  # `import torch` says then that there is none
    try:
        yield
    finally:
        if hidden:
            del modules["torch"]


with _without_torch():
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

_FILE, SAMPLES_FILE = "metrics.jsonl", "samples.jsonl"
_FLUSH_SECONDS = 60
_PROTO: Any = event_pb2  # its classes are made when it is imported


class MetricsWriter:
    """Appends one flat JSON object per logged update to metrics.jsonl.

    And one per sheet of samples to samples.jsonl. If it is wanted the same numbers go to TensorBoard, those
    of samples under "samples/".
    """

    def __init__(self, workdir: str | Path, *, step: int, tensorboard: bool):
        """Open the files of a run, made if there are none.

        Args:
            workdir: folder of the run.
            step: updates that the run has made; later lines, of updates that will be made again, are dropped.
            tensorboard: whether its events are written.
        """
        folder = Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        first = step + 1 if step else 0  # a run that begins again draws the sheet of update 0 again
        self._lines = _reopen(folder / _FILE, first)
        self._sample_lines = _reopen(folder / SAMPLES_FILE, first)
        self._events = _Events(folder, step=first) if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the line {"step": step, name: number, ...}; a number that is not finite is null."""
        self._append(self._lines, step, metrics, prefix="")

    def write_samples(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a line as `write` does, about the samples after `step` updates, to a file of their own."""
        self._append(self._sample_lines, step, metrics, prefix="samples/")

    def _append(self, lines: TextIO, step: int, metrics: Mapping[str, float], *, prefix: str) -> None:
        record: dict[str, Any] = {"step": int(step)}
        for name, value in metrics.items():
            number = float(value)
            record[name] = number if math.isfinite(number) else None
            if self._events:
                self._events.write(step, summary.scalar(prefix + name, number))
        lines.write(json.dumps(record) + "\n")
        lines.flush()

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Add a picture to TensorBoard: [H, W, 3], uint8 or float in [0, 1]."""
        if self._events:
            self._events.write(step, summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        """Write out what is buffered and close the files."""
        self._lines.close()
        self._sample_lines.close()
        if self._events:
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Events:
    """TensorBoard events of a run, written by the thread that measures: it sees what the disk says.

    SummaryWriter has a thread of its own. When the disk fails that ends, and the run waits for it for ever.
    """

    def __init__(self, folder: Path, *, step: int):
        """Begin a file whose events take the place of earlier ones from `step` on."""
        start = _PROTO.SessionLog(status=_PROTO.SessionLog.START)
        self._writer, self._flushed = EventsWriter(str(folder / "events")), time.monotonic()
        self._writer.write_event(_PROTO.Event(step=step, session_log=start))

    def write(self, step: int, content: Any) -> None:
        self._writer.write_event(_PROTO.Event(wall_time=time.time(), step=step, summary=content))
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()


def _reopen(file: Path, first: int) -> TextIO:
    """Drop the lines of updates from `first` on and open the file to append."""
    kept = [record for record in read_metrics(file) if record["step"] < first] if file.exists() else []
    write_whole(file, "".join(json.dumps(record) + "\n" for record in kept))
    return file.open("a", encoding="utf-8")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the records of one of the files, in order; a last line that was cut off is left out.

    A line that is damaged is left out too, and a warning counts those.

    Args:
        path: the file, or the run's folder.

    Returns:
        One dict per line: `step` int, all else float, or None where it was not finite.
    """
    file = Path(path) / _FILE if Path(path).is_dir() else Path(path)
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    records = [(number, _read_line(line)) for number, line in enumerate(lines[:-1], start=1) if line]
    damaged = [number for number, record in records if record is None]
    if damaged:
        logging.warning(
            "'%s': %d lines are damaged and left out, the first is %d", file, len(damaged), damaged[0]
        )
    return [record for _, record in records if record is not None]


def _read_line(line: str) -> dict[str, Any] | None:
    """Read one record; None if it is none."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    is_record = isinstance(record, dict) and type(record.get("step")) is int
    return record if is_record and all(_is_number(value) for value in record.values()) else None


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


LEAD_WINDOW = 20
"""Updates over which rewards are averaged to say who leads."""


def first_update_student_leads(
    updates: Sequence[int], student: Sequence[float], teacher: Sequence[float], window: int = LEAD_WINDOW
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
