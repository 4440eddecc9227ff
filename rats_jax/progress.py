"""Progress of a command: a bar on a terminal, elsewhere (a log file, a notebook) a line every few seconds."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TextIO, TypeVar

from tqdm import tqdm

from rats_jax.errors import ConfigError

T = TypeVar("T")

_SECONDS = 15.0
_LINE = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Progress(Protocol):
    """What is done of so many steps: of tqdm what this package uses."""

    n: int | float

    def update(self, n: int) -> bool | None:
        """Count `n` more steps."""
        ...

    def set_postfix_str(self, s: str) -> None:
        """Show a text behind the next count."""
        ...

    def close(self) -> None:
        """Show the last count."""
        ...


class Lines:
    """Progress as lines, in tqdm's words: percentage, count, time [so far < left, rate, text].

    Args:
        total: steps of the whole.
        title: what it is.
        unit: what a step is called.
        done: steps that were done before.
        stream: where to.
        clock: gives the time in seconds.
        seconds: between two lines.
        leave: whether closing writes the last count where no line came before.
    """

    def __init__(
        self,
        total: int,
        *,
        title: str,
        unit: str,
        done: int,
        stream: TextIO,
        clock: Callable[[], float],
        seconds: float,
        leave: bool,
    ):
        self.n: int | float = done
        self._total, self._title, self._unit, self._done = total, title, unit, done
        self._stream, self._clock, self._seconds = stream, clock, seconds
        self._text, self._shown, self._closes = "", done, leave
        self._began = self._last = clock()

    def update(self, n: int) -> None:
        """Count `n` more steps, and write a line if it is time."""
        self.n += n
        now = self._clock()
        if now >= self._last + self._seconds:
            self._write(now)

    def set_postfix_str(self, s: str) -> None:
        """End the lines from now on with a text."""
        self._text = s

    def close(self) -> None:
        """Write the last count, if it has no line yet; what was quick needs none unless it is to stay."""
        if self._closes and self.n != self._shown:
            self._write(self._clock())

    def _write(self, now: float) -> None:
        self._last, self._shown, self._closes = now, self.n, True
        line = tqdm.format_meter(
            self.n,
            self._total,
            now - self._began,
            prefix=self._title,
            unit=self._unit,
            bar_format=_LINE,
            postfix=self._text,
            initial=self._done,
        )
        self._stream.write(line + "\n")
        self._stream.flush()


def progress(
    total: int, *, title: str, unit: str, done: int = 0, leave: bool = True, shown: bool = True
) -> Progress:
    """Begin to show progress on stderr.

    Args:
        total: steps of the whole.
        title: what it is.
        unit: what a step is called.
        done: steps that were done before.
        leave: whether a bar stays when it is closed; lines stay, but what is over before the first of them
            has none then.
        shown: False shows nothing.

    Returns:
        tqdm's bar on a terminal, else `Lines`, 15 seconds apart, or as many as TQDM_MININTERVAL says.
    """
    stream = sys.stderr
    # A notebook gives its commands a terminal of which it keeps every state that a bar had.
    is_terminal = stream.isatty() and "JPY_PARENT_PID" not in os.environ
    if not shown or is_terminal:
        return tqdm(total=total, initial=done, desc=title, unit=unit, leave=leave, disable=not shown)
    clock, seconds = time.monotonic, _seconds_between_lines()
    return Lines(
        total, title=title, unit=unit, done=done, stream=stream, clock=clock, seconds=seconds, leave=leave
    )


def _seconds_between_lines() -> float:
    given = os.environ.get("TQDM_MININTERVAL", str(_SECONDS))
    try:
        return float(given)
    except ValueError:
        raise ConfigError(f"TQDM_MININTERVAL={given!r}: expected a number of seconds") from None


def tracked(
    items: Sequence[T], *, title: str, unit: str, leave: bool = True, shown: bool = True
) -> Iterator[T]:
    """Go through items and show how many are done; arguments as of `progress`."""
    bar = progress(len(items), title=title, unit=unit, leave=leave, shown=shown)
    with contextlib.closing(bar):
        for item in items:
            yield item
            bar.update(1)
