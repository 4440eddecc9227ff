"""Bytes that a GPU's program moves through its memory, counted in the program's text.

Each kernel reads its operands from memory and writes its result there; what a kernel keeps to itself costs
nothing. Caches, which can serve small operands, are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict

from rats_jax.aot.hlo_text import (
    BODY,
    CALLED,
    TARGET,
    TRIPS,
    Computation,
    Instruction,
    branches,
    count_bytes,
    first,
    parse,
)

_FREE = frozenset(
    {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id"}
)
_SLICES = frozenset({"dynamic-slice", "slice", "gather"})
_WORKSPACE = re.compile(r", [su]8\[\d+\]")  # of a library, beside its results
_PARAMETER = re.compile(r"(\d+)\)")


def count_traffic(text: str) -> dict[str, float]:
    """Count the bytes that kernels read and write in one execution on one device.

    Of an array that a kernel only takes slices of, the slices count, and of one that it changes in place what
    it writes. Loop bodies count as often as they run; of a conditional all branches do.

    Args:
        text: `compiled.as_text()`, of a GPU.

    Returns:
        Bytes by kind of kernel, the largest first: XLA's name of a fusion, such as 'loop_concatenate_fusion',
        or the function of a library that is called.

    Raises:
        ValueError: the text has no entry computation, or does not say how often a loop runs.
    """
    entry, computations = parse(text)
    moved: dict[str, float] = defaultdict(float)
    _add(moved, computations, entry, 1)
    return dict(sorted(moved.items(), key=lambda item: -item[1]))


def _add(moved: dict[str, float], computations: dict[str, Computation], name: str, times: int) -> None:
    for label, instruction in computations[name].items():
        opcode, tail = instruction.opcode, instruction.tail
        if not label or opcode in _FREE or opcode.endswith("-done"):
            continue
        if opcode == "while":
            trips = first(TRIPS, tail)
            if not trips:
                raise ValueError(f"{label}: the trip count of the loop is not in the text")
            _add(moved, computations, first(BODY, tail), times * int(trips))
        elif opcode == "conditional":
            for branch in branches(tail):
                _add(moved, computations, branch, times)
        elif opcode == "call":
            _add(moved, computations, first(CALLED, tail), times)
        else:
            kind = first(TARGET, tail) if opcode == "custom-call" else re.sub(r"[.\d]+$", "", label)
            moved[kind] += times * _bytes_of_kernel(computations, computations[name], instruction)


def _bytes_of_kernel(
    computations: dict[str, Computation], computation: Computation, instruction: Instruction
) -> float:
    is_fusion = instruction.opcode in ("fusion", "fusion-start")
    inner = computations[first(CALLED, instruction.tail)] if is_fusion else None
    operands = [computation[name].type for name in instruction.operands if name in computation]
    if inner is None:
        if instruction.opcode in _SLICES:
            return 2 * _size(instruction.type)
        return _size(instruction.type) + sum(map(_size, operands))
    return _written(inner) + sum(_read(inner, number, kind) for number, kind in enumerate(operands))


def _read(inner: Computation, number: int, kind: str) -> float:
    """Count what a fusion reads of an operand."""
    own = [n for n, i in inner.items() if n and i.opcode == "parameter" and _number(i) == number]
    users = [i for name, i in inner.items() if name and own and own[0] in i.operands]
    if users and all(i.opcode in _SLICES and i.operands[0] == own[0] for i in users):
        return sum(_size(i.type) for i in users)
    if users and all(i.opcode == "dynamic-update-slice" and i.operands[0] == own[0] for i in users):
        return 0.0  # it is changed in place
    return _size(kind)


def _written(inner: Computation) -> float:
    """Count what a fusion writes."""
    root = inner[""]
    results = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return sum(
        _size(inner[i.operands[1]].type if i.opcode == "dynamic-update-slice" else i.type) for i in results
    )


def _number(parameter: Instruction) -> int:
    return int(first(_PARAMETER, parameter.tail))


def _size(kind: str) -> float:
    """Count the bytes of what a kernel reads or gives, but for what it works in."""
    return count_bytes(_WORKSPACE.sub("", kind))
