"""Text of a compiled XLA program, read into computations and their instructions."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

SHAPE = re.compile(r"\b([a-z]+)(\d*)\w*\[([<=\d,]*)\]")
"""Of an array: the letters and the bits of its type, and its dimensions."""
INTEGER = re.compile(r"-?\d+")
NAME = re.compile(r"%([^\s,(){}]+)")
"""Of an operand or a computation that is called."""
CALLED = re.compile(r"\b(?:calls|to_apply|called_computations)=\{?%([^\s,}]+)")
TARGET = re.compile(r'\bcustom_call_target="([^"]*)"')
_BRANCHES = re.compile(r"\b(?:branch_computations=\{[^}]*|(?:true|false)_computation=%[^\s,]+)")
BODY = re.compile(r"\bbody=%([^\s,]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_COMPUTATION = re.compile(r"(ENTRY )?%(\S+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"\s+(ROOT )?%(\S+) = (\S+|\(.*?\)) ([a-z][a-z0-9-]*)\("
)  # a tuple's type has spaces


class Instruction(NamedTuple):
    """A line of a computation.

    Attributes:
        opcode: what it does, as 'fusion'.
        type: of its result, as 'bf16[8,4]{1,0}'.
        tail: from the first operand on, attributes included.
        operands: their names.
    """

    opcode: str
    type: str
    tail: str
    operands: list[str]


Computation = dict[str, Instruction]
"""By name; "" is the root."""


def parse(text: str) -> tuple[str, dict[str, Computation]]:
    """Read a program.

    Args:
        text: `compiled.as_text()`.

    Returns:
        The name of its entry computation, and all computations by name.

    Raises:
        ValueError: there is no entry.
    """
    entry, computations, current = "", {}, {}
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            tail = line[match.end() :]
            current[match[2]] = Instruction(match[4], match[3], tail, NAME.findall(tail.partition("), ")[0]))
            if match[1]:
                current[""] = current[match[2]]
        elif match := _COMPUTATION.match(line):
            current = computations[match[2]] = {}
            entry = match[2] if match[1] else entry
    if not entry:
        raise ValueError("no ENTRY computation: expected the text of an optimised XLA program")
    return entry, computations


def branches(tail: str) -> list[str]:
    """Name the computations of a conditional, by the rest of its line."""
    return NAME.findall(" ".join(_BRANCHES.findall(tail)))


def integers(text: str) -> list[int]:
    """Read all integers in a text."""
    return [int(number) for number in INTEGER.findall(text)]


def first(pattern: re.Pattern[str], text: str) -> str:
    """Give the first group of a pattern where it is first found, or ''."""
    return found[1] if (found := pattern.search(text)) else ""


def count_bytes(kind: str) -> float:
    """Count the bytes of an array or of a tuple of them, by its type."""
    arrays = SHAPE.finditer(kind)
    return sum(math.prod(integers(a[3])) * (1 if a[1] == "pred" else int(a[2] or 0) / 8) for a in arrays)


def dims(kind: str) -> list[int]:
    """Read the dimensions of the first array in a type."""
    return integers(found[3]) if (found := SHAPE.search(kind)) else []
