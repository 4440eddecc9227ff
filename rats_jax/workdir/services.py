"""Services that a run can be logged to: Weights & Biases and Trackio."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rats_jax.errors import ConfigError, expect, reason_of

PROJECT = "rats_jax"
"""Of the runs, unless WANDB_PROJECT or TRACKIO_PROJECT says another."""


class Table(NamedTuple):
    """A table of a logger: titles of the columns, and rows of texts and numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


Row = Mapping[str, float | Path | Table]
"""What is logged of one update, by name: numbers, pictures as files, tables."""


class Service(NamedTuple):
    """A run that is open at a service.

    Attributes:
        log: (update, row); updates ascend, and the last one may get more.
        close: (exit status of the run).
        step: the last update that the service says it has, -1 for none.
    """

    log: Callable[[int, Row], None]
    close: Callable[[int], None]
    step: int


class Start(NamedTuple):
    """What a service is opened with: id of the run, its title, config as JSON has it, folder of its logs."""

    id: str
    title: str
    config: dict[str, Any]
    folder: Path


def _open_wandb(start: Start) -> Service:
    """Open a run at Weights & Biases; its own variables, as WANDB_PROJECT and WANDB_MODE, say where."""
    wandb: Any = importlib.import_module("wandb")
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=os.environ.get("WANDB_NAME", start.title),
        dir=os.environ.get("WANDB_DIR", str(start.folder)),
        id=start.id,
        resume="allow",
        config=start.config,
        allow_val_change=True,  # num_updates, of a run that is prolonged
    )

    def log(step: int, row: Row) -> None:
        # It drops what goes back, as a table would that was missing when the last update was there.
        run.log(_converted(row, wandb), step=max(step, run.step))

    return Service(log, lambda status: run.finish(exit_code=status), run.step - 1)


def _open_trackio(start: Start) -> Service:
    """Open a run of Trackio; its own variables, as TRACKIO_DIR and TRACKIO_SPACE_ID, say where."""
    trackio: Any = importlib.import_module("trackio")
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    run = trackio.init(project=project, name=start.id, config=start.config, resume="allow")

    def log(step: int, row: Row) -> None:
        run.log(_converted(row, trackio), step=step)

    return Service(log, lambda status: trackio.finish(), -1)


def _converted(row: Row, package: Any) -> dict[str, Any]:
    """Turn pictures and tables into those of a package; both call them the same."""

    def convert(value: float | Path | Table) -> Any:
        if isinstance(value, Path):
            return package.Image(str(value))
        if isinstance(value, Table):
            return package.Table(columns=list(value.columns), data=[list(cells) for cells in value.rows])
        return value

    return {name: convert(value) for name, value in row.items()}


OPENERS: Mapping[str, Callable[[Start], Service]] = {"wandb": _open_wandb, "trackio": _open_trackio}
"""Services by the name that `loggers` of a config calls them."""


def expect_loggers(names: Sequence[str]) -> None:
    """Check that the loggers of a config can be opened; nothing is sent.

    Raises:
        ConfigError: a package is missing, or nobody is logged in.
    """
    for name in names:
        if name not in OPENERS:
            continue
        spec = find_spec(name)
        here = spec is not None and spec.origin is not None  # a folder `wandb` of runs is no package
        expect(here, "loggers", name, f"its package: pip install 'rats_jax[{name}]'")
        if name == "wandb":
            _expect_login()


def _expect_login() -> None:
    """Let wandb look for a key where it would, and not ask for one in the middle of a run."""
    expected = "a log-in, from `wandb login` or in WANDB_API_KEY, or WANDB_MODE=offline"
    try:
        wandb: Any = importlib.import_module("wandb")
        without = wandb.setup().settings.mode in ("offline", "dryrun", "disabled")
        known = without or wandb.login(prompt=False, verify=False)
    except Exception as error:  # a key that is none, a version that cannot be asked
        raise ConfigError(f"loggers='wandb': expected {expected} ({reason_of(error)})") from None
    expect(known, "loggers", "wandb", expected)


def open_service(name: str, start: Start) -> Service:
    """Open a run at a service, a key of OPENERS.

    Raises:
        ConfigError: it cannot be opened.
    """
    try:
        return OPENERS[name](start)
    except Exception as error:  # no network, a key that is not accepted
        raise ConfigError(
            f"loggers={name!r}: expected a run that can be opened ({reason_of(error)})"
        ) from None
