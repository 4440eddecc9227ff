"""Errors that a command shows as one line; this file imports nothing of the package."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any


class ConfigError(ValueError):
    """The input is wrong and its author can mend it: names the field, the value and what was expected."""


class WeightsError(ConfigError):
    """Weights that are missing, left over, or of another shape or kind than the architecture asks for."""


class HackingError(RuntimeError):
    """The student climbs its reward at the cost of what it is not trained on."""


class DivergedError(RuntimeError):
    """Training produced numbers that are not finite; says where, and what is kept."""


class StoppedError(RuntimeError):
    """The run was asked to end from outside and can go on: says what is saved.

    Attributes:
        status: of the command that it ends, EX_TEMPFAIL of sysexits.h.
    """

    status = 75


class ExportError(RuntimeError):
    """What was exported does not draw what the student draws."""


def expect(holds: bool, field: str, value: Any, expected: str) -> None:
    """Raise the one-line ConfigError about a field unless `holds`."""
    if not holds:
        raise ConfigError(f"{field}={' '.join(repr(value).split())}: expected {expected}")


def reason_of(error: Exception) -> str:
    """Say in one line why something failed: of a file what the system says, without its number and path."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return said or type(error).__name__


def suggestion(name: str, known: Collection[str]) -> str:
    """Propose the known name that is closest to a misspelt one, or list nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def expect_known(name: str, known: Collection[str], field: str, value: Any, expected: str) -> None:
    """Raise the error of `expect` about a field unless `name` is known, with the closest name that is."""
    if name not in known:  # asked first: to compare with all names takes long
        expect(False, field, value, expected + suggestion(name, known))
