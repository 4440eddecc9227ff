"""Logbook of a run: progress, metrics.jsonl and other loggers, and the watch over all numbers."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from tqdm import tqdm

from rats_jax.errors import DivergedError, HackingError
from rats_jax.parallel import processes
from rats_jax.progress import progress
from rats_jax.report import figures
from rats_jax.training import hacking
from rats_jax.training.due import is_logged
from rats_jax.workdir.loggers import Loggers
from rats_jax.workdir.metrics import SAMPLES_FILE, MetricsWriter, read_metrics
from rats_jax.workdir.sheets import sheet_stem


class Logbook:
    """Writes down what a run measures, and ends it where that is not finite or shows a hacked reward.

    Attributes:
        folder: of the logs, local.

    Args:
        config: fields as in configs/default.py.
        workdir: of the run, for messages.
        folder: of the logs, local.
        step: updates that the run has made.
        started: when this start of the run began, as `time.perf_counter` counts.
        loggers: that are open.
        saved: gives the updates of the newest and of the best checkpoint, or None, for messages.
    """

    def __init__(
        self,
        config: Any,
        workdir: str,
        folder: Path,
        *,
        step: int,
        started: float,
        loggers: Loggers,
        saved: Callable[[], tuple[int | None, int | None]],
    ):
        self.folder, self._config, self._saved = folder, config, saved
        self._checkpoints = f"{workdir.rstrip('/')}/checkpoints"
        self._writer = MetricsWriter(folder, step=step, tensorboard="tensorboard" in config.loggers)
        self._loggers = loggers
        loggers.follow()
        earlier = read_metrics(folder)
        self._started = started - (earlier[-1]["time/elapsed"] if earlier else 0.0)
        shown = jax.process_index() == 0
        self._bar = progress(config.num_updates, title="RATS", unit="update", done=step, shown=shown)
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._bar.close()

    @property
    def seconds(self) -> float:
        """What all starts of this run have taken, up to now."""
        return time.perf_counter() - self._started

    def log(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Take the metrics of an update, and write those of the one before: the device never waits."""
        self.flush()
        self._pending = step, metrics

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            DivergedError: a number is not finite.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        self._check_finite(step, values)
        self._bar.set_postfix_str(
            f"student {values['reward/student']:.3f}  teacher {values['reward/teacher']:.3f}  "
            f"gate {values['gate/mean']:.2f}"
        )
        self._bar.update(step - int(self._bar.n))
        if is_logged(self._config, step):
            values["time/elapsed"] = self.seconds
            self._writer.write(step, values)
            self._loggers.log(step, values)

    def log_sheet(self, step: int, sheet: figures.Sheet, record: Mapping[str, float]) -> None:
        """Write a sheet of samples and what was measured on it, before its update is saved.

        Raises:
            DivergedError: a number is not finite.
        """
        files = figures.save_sheet(sheet, sheet_stem(self.folder, step))
        self._writer.write_image(step, "samples", np.asarray(sheet.picture))
        self._check_finite(step, record)
        self._writer.write_samples(step, record)
        self._loggers.log_sheet(step, files[-1], record)  # of videos the one that plays

    def warn_of_hacking(self, step: int) -> None:
        """Read the sheets so far, the last of which is saved; warn of a hacked reward.

        Raises:
            HackingError: the reward rose while all else fell, and the config asks to stop there.
        """
        patience, records = self._config.hacking_patience, read_metrics(self.folder / SAMPLES_FILE)
        fallen = hacking.find_hacking(records, patience=patience)
        if not processes.agree(bool(fallen)):
            return
        line = (
            f"update {step}: over the last {patience} sheets of samples the reward rose while "
            f"{', '.join(fallen)} fell; the best checkpoint in {self._checkpoints!r} is of update "
            f"{self._saved()[1]}"
        )
        if self._config.stop_on_hacking:
            raise HackingError(line)
        say(f"warning: {line}")

    def _check_finite(self, step: int, values: Mapping[str, float]) -> None:
        bad = sorted(name for name, value in values.items() if not math.isfinite(value))
        if bad:
            raise DivergedError(
                f"update {step}: {bad[0]} is {values[bad[0]]}, expected a finite number; the newest "
                f"checkpoint in {self._checkpoints!r} is of update {self._saved()[0]}; try a smaller "
                "optimizer.learning_rate, or rats_jax.score with the same rewards on some pictures"
            )


def say(line: str) -> None:
    """Print a line above the progress bar, once for all processes."""
    if jax.process_index() == 0:
        tqdm.write(line, file=sys.stderr)
