"""Fields of a config file that PyTorch wrote: each is computed, or refused by name; none is dropped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

MOST_PIXELS = 2**14
"""Largest side of a picture in pixels; no memory holds a larger one. Latents have an eighth of it."""
_NEEDED = object()


@dataclass(frozen=True)
class Field:
    """One argument of the PyTorch class that a config.json configures.

    Attributes:
        default: what the PyTorch class takes where the file says nothing; see also `needed`.
        holds: whether the network here computes what the class does with a value.
        expected: how to say so.
    """

    default: Any
    holds: Callable[[Any], bool]
    expected: str


def integer(default: int | None, *, least: int = 1, most: int | None = None) -> Field:
    """Accept integers of 32 bits from `least` on; of what is counted out one by one, up to `most`."""
    expected = f"an integer >= {least}" if most is None else f"an integer from {least} to {most}"
    limit = 2**31 - 1 if most is None else most
    return Field(default, lambda value: _is_int(value) and least <= value <= limit, expected)


def number(default: float, *, positive: bool = True) -> Field:
    """Accept finite numbers, above 0 unless `positive` is false."""

    def holds(value: Any) -> bool:
        is_number = (_is_int(value) or isinstance(value, float)) and abs(value) < float("inf")
        return is_number and (value > 0 or not positive)

    return Field(default, holds, "a number > 0" if positive else "a finite number")


def flag(default: bool) -> Field:
    """Accept true and false, and null where that means false by default, as published files have it."""
    choices = (True, False) if default else (True, False, None)
    return Field(default, lambda value: _among(value, choices), "true or false")


def one_of(default: Any, *others: Any) -> Field:
    """Accept a few values."""
    choices = (default, *others)
    return Field(default, lambda value: _among(value, choices), " or ".join(map(repr, choices)))


def only(default: Any) -> Field:
    """Accept the default of a field that is not computed here, and null where that means the same as it."""
    choices = (default,) if default else (default, None)
    return Field(default, lambda value: _among(value, choices), f"{default!r}: no other value is supported")


def anything(default: Any = None) -> Field:
    """Accept any value of a field that changes nothing of what a network computes when it is sampled from."""
    return Field(default, lambda value: True, "anything")


def optional(field: Field) -> Field:
    """Accept null as well, as the PyTorch class does; null is the default."""
    return Field(None, lambda value: value is None or field.holds(value), f"null or {field.expected}")


def needed(field: Field) -> Field:
    """Refuse a file that says nothing."""
    return replace(field, default=_NEEDED)


def per_block(field: Field) -> Field:
    """Accept a list of values too, one for each block; how many there must be is for the network to say."""

    def holds(value: Any) -> bool:
        values = value if isinstance(value, list | tuple) else [value]
        return len(values) > 0 and all(map(field.holds, values))

    return Field(field.default, holds, f"{field.expected}, or a list of such")


def listed(default: tuple[Any, ...], field: Field, *, least: int = 1) -> Field:
    """Accept lists of at least so many values, one for each block."""

    def holds(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) >= least and all(map(field.holds, value))

    return Field(default, holds, f"a list, each {field.expected}")


def read_fields(
    config: Mapping[str, Any], fields: Mapping[str, Field], *, ignored: Collection[str] = ()
) -> dict[str, Any]:
    """Read a config.json as the arguments of a network.

    Args:
        config: its content; what begins with an underscore is about the file.
        fields: of the network, by name.
        ignored: names of other fields that choose nothing that is computed.

    Returns:
        A value for each of `fields`, the default where the file has none; lists as tuples.

    Raises:
        ValueError: a field with a value that is not computed here, or one that is not known and not null:
            'name=value: expected ...'; or one that is needed is not there.
    """
    for name, value in config.items():
        if name in fields:
            expect(fields[name].holds(value), name, value, fields[name].expected)
        elif not name.startswith("_") and name not in ignored:
            expect(value is None, name, value, "null: the field is not known here")
    values = {name: config.get(name, field.default) for name, field in fields.items()}
    if lacking := [name for name, value in values.items() if value is _NEEDED]:
        raise ValueError(f"{lacking[0]}: expected {fields[lacking[0]].expected}, it is missing")
    return {name: _as_tuple(value) for name, value in values.items()}


def expect(holds: bool, name: str, value: Any, expected: str) -> None:
    """Raise the one-line ValueError about a field unless `holds`."""
    if not holds:
        raise ValueError(f"{name}={value!r}: expected {expected}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _among(value: Any, choices: Collection[Any]) -> bool:
    """Compare without taking 0 for false."""
    value = _as_tuple(value)
    return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value
