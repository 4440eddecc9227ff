"""Loggers of a run beside its own files: what they get, and what they have already.

They get what metrics.jsonl, samples.jsonl and samples/ get, a row for each update. How far each has come is
kept in loggers.json, so that a resumed run continues the same run there: what a service has is not sent
again, and what it missed is sent from the files.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rats_jax.errors import ConfigError, reason_of
from rats_jax.files import write_whole
from rats_jax.texts import parse_object, read_text
from rats_jax.workdir import saved_config
from rats_jax.workdir.metrics import SAMPLES_FILE, read_metrics
from rats_jax.workdir.services import OPENERS, PROJECT, Row, Service, Start, Table, open_service
from rats_jax.workdir.sheets import find_sheets

_FILE, _SHEET = "loggers.json", "samples/sheet"
_TITLE = 40  # letters of the title that an id begins with


class Loggers:
    """Sends the rows of a run to its services, each update once, in their order.

    One that fails is left out for the rest of this start, with a warning; the next one sends what it missed.

    Args:
        saved: what services have of earlier starts, by name: id of the run, its last update, and that of its
            last table.
        folder: of the run's logs, local.
        say: gets warnings.
    """

    def __init__(self, saved: dict[str, dict[str, Any]], folder: Path, *, say: Callable[[str], None]):
        self._saved, self._folder, self._say = saved, folder, say
        self._services: dict[str, Service] = {}
        self._held: dict[int, dict[str, float | Path | Table]] = {}

    def add(self, name: str, service: Service) -> None:
        """Send to a service that is open, too."""
        self._services[name] = service
        self._saved[name]["step"] = max(self._saved[name]["step"], service.step)
        self.save()

    def follow(self) -> None:
        """Send what the files of the run have and a service has not."""
        if not self._services:
            return
        for step, row in sorted(_read_rows(self._folder).items()):
            self._log(step, row)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an update."""
        self._log(step, metrics)

    def log_sheet(self, step: int, sheet: Path, record: Mapping[str, float]) -> None:
        """Log a sheet of samples, a file that browsers show, and what was measured on it."""
        self._log(step, {_SHEET: sheet, **_of_samples(record)})

    def log_tables(self, step: int, tables: Mapping[str, Table]) -> None:
        """Log the tables that the run ends with, their numbers by table, column and row (to its comma)."""
        self.flush()
        row: dict[str, float | Path | Table] = dict(tables)
        for name, table in tables.items():
            for title, *cells in table.rows:
                who = title.split(",")[0]
                row |= {f"{name}/{c}/{who}": v for c, v in zip(table.columns[1:], cells, strict=True)}
        for name in list(self._services):
            if self._saved[name]["table"] < step and self._send(name, step, row):
                self._saved[name]["table"] = step
                self.save()

    def flush(self) -> None:
        """Send what is held back."""
        for step in sorted(self._held):
            self._send_all(step, self._held.pop(step))

    def close(self, status: int) -> None:
        """Send what is held back and end the runs, with the exit status of this one."""
        try:
            self.flush()
        finally:
            for name, service in self._services.items():
                self._guard(name, lambda service=service: service.close(status))

    def _log(self, step: int, row: Row) -> None:
        """Hold the newest row back: it may get more, and the sheet of update 0 comes after update 1."""
        self._held.setdefault(step, {}).update(row)
        for older in sorted(self._held)[:-1]:
            self._send_all(older, self._held.pop(older))

    def _send_all(self, step: int, row: Row) -> None:
        for name in list(self._services):
            if self._saved[name]["step"] < step and self._send(name, step, row):
                self._saved[name]["step"] = step
                self.save()

    def _send(self, name: str, step: int, row: Row) -> bool:
        sent = self._guard(name, lambda: self._services[name].log(step, row))
        if not sent:
            del self._services[name]
        return sent

    def _guard(self, name: str, send: Callable[[], None]) -> bool:
        try:
            send()
        except Exception as error:  # whatever the client of a service raises, the run is worth more
            self._say(
                f"warning: loggers={name!r}: it takes no more of this run ({reason_of(error)}); the files in "
                f"{str(self._folder)!r} have the rest, and the next start sends it"
            )
            return False
        return True

    def save(self) -> None:
        """Write down what the services have."""
        if self._saved:
            write_whole(self._folder / _FILE, json.dumps(self._saved, indent=2) + "\n")


def _of_samples(record: Mapping[str, float]) -> dict[str, float]:
    return {f"samples/{name}": value for name, value in record.items()}


def _read_rows(folder: Path) -> dict[int, dict[str, Any]]:
    """Read what the files of a run have, by update."""
    rows: dict[int, dict[str, Any]] = {}
    sheets = find_sheets(folder)
    for name in (None, SAMPLES_FILE):
        for record in read_metrics(folder / name if name else folder):
            step = record.pop("step")
            numbers = {key: value for key, value in record.items() if value is not None}
            rows.setdefault(step, {}).update(_of_samples(numbers) if name else numbers)
            if name and step in sheets:
                rows[step][_SHEET] = sheets[step]
    return rows


@contextmanager
def open_loggers(
    config: Mapping[str, Any], workdir: str, folder: Path, *, writes: bool, say: Callable[[str], None]
) -> Iterator[Loggers]:
    """Open the runs that belong to this one, those of earlier starts if there are any.

    Args:
        config: of the run; `loggers` names the services.
        workdir: of the run, whose name becomes the title.
        folder: of its logs, local.
        writes: whether this process logs; in all others nothing is opened.
        say: gets warnings.

    Raises:
        ConfigError: a service cannot be opened, or loggers.json is damaged.
    """
    names = [name for name in config["loggers"] if name in OPENERS] if writes else []
    saved = _read_saved(folder / _FILE) if names else {}
    title = re.sub(r"[^\w.-]+", "-", workdir.rstrip("/").rsplit("/", 1)[-1]).strip("-.") or PROJECT
    loggers, status = Loggers(saved, folder, say=say), 0
    try:
        for name in names:
            new = {"id": f"{title[:_TITLE]}-{uuid.uuid4().hex[:8]}", "step": -1, "table": -1}
            start = Start(saved.setdefault(name, new)["id"], title, saved_config.to_dict(config), folder)
            loggers.add(name, open_service(name, start))
        yield loggers
    except BaseException as error:
        status = getattr(error, "status", 1)
        raise
    finally:
        loggers.close(status)


def _read_saved(file: Path) -> dict[str, dict[str, Any]]:
    """Read what earlier starts have sent.

    Raises:
        ConfigError: the file is damaged.
    """
    if not file.exists():
        return {}
    kinds = {"id": str, "step": int, "table": int}
    try:
        saved = parse_object(read_text(file))
        whole = all(
            isinstance(known, dict) and {key: type(value) for key, value in known.items()} == kinds
            for known in saved.values()
        )
        if whole:
            return saved
        raise ValueError(f"each with {', '.join(kinds)}")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{str(file)!r}: expected the runs of loggers as JSON ({reason_of(error)})"
        ) from None
