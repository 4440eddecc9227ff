"""Arguments of the Python API: what is of another type or out of range is refused as on the command line."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Set
from typing import Any

from rats_jax.data.rows import brief, check_prompt
from rats_jax.errors import ConfigError, expect


def integer(value: Any, field: str, *, least: int, most: float = math.inf) -> int:
    """Give a whole number, Python's or NumPy's, as Python's.

    Raises:
        ConfigError: it is none, or out of range; True and 2.0 are none.
    """
    value = _scalar(value)
    holds = (
        isinstance(value, numbers.Integral) and not isinstance(value, bool) and least <= int(value) <= most
    )
    span = f">= {least}" if most == math.inf else f"from {least} to {most}"
    expect(holds, field, value, f"an integer {span}")
    return int(value)


def number(value: Any, field: str, *, least: int, note: str = "") -> float:
    """Give a number, Python's or NumPy's, as Python's float; `note` ends the message.

    Raises:
        ConfigError: it is no finite number of at least `least`.
    """
    value = _scalar(value)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    expect(is_number and least <= float(value) < math.inf, field, value, f"a number >= {least}{note}")
    return float(value)


def check_dtype(value: Any) -> None:
    """Check the name of what networks compute in.

    Raises:
        ConfigError: it is neither 'float32' nor 'bfloat16'.
    """
    known = "float32", "bfloat16"
    expect(isinstance(value, str) and value in known, "dtype", value, " or ".join(map(repr, known)))


def prompts(value: Any) -> list[str]:
    """Give a text, or texts in an order, as a list of stripped ones.

    Raises:
        ConfigError: there is none, or one of them is no text.
    """
    listed = isinstance(value, Iterable) and not isinstance(value, Mapping | Set | bytes | bytearray)
    if not listed:
        raise ConfigError(f"prompts={brief(value)}: expected a text or a list of texts")
    given = [value] if isinstance(value, str) else list(value)
    expect(bool(given), "prompts", given, "at least one")
    return [check_prompt(prompt, f"prompts[{i}]") for i, prompt in enumerate(given)]


def _scalar(value: Any) -> Any:
    """Take the number out of an array without axes, NumPy's or jax's; give anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value
