"""What one run of a compiled program does, read from its text: multiply-adds, and bytes between devices.

XLA's own cost analysis counts the body of a loop once; here it counts as often as the loop turns.
"""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rats_jax.runtime.flops import useful_taps

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """An exchange between devices.

    Attributes:
        kind: one of KINDS.
        nbytes: of one execution on one device: of the result of an all-gather, of the input of all others.
        times: executions in one run of the program.
        op_name: where in the source it comes from, as far as XLA knows.
    """

    kind: str
    nbytes: int
    times: int
    op_name: str


class Costs(NamedTuple):
    """Costs of one run of a program on one device.

    Attributes:
        flops: 2 * multiply-adds of matrix products and convolutions, none of padding.
        collectives: every exchange.
    """

    flops: float
    collectives: list[Collective]

    def collective_bytes(self) -> dict[str, int]:
        """Sum the bytes by kind."""
        total: dict[str, int] = defaultdict(int)
        for c in self.collectives:
            total[c.kind] += c.nbytes * c.times
        return dict(total)


class _Instruction(NamedTuple):
    name: str
    type: str
    op: str
    operands: str
    attributes: str


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OP = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]+[a-z0-9]*|pred)\[([0-9,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
# Loops are compiled away from inside what these do, and their arithmetic is nothing to count.
_IGNORED = ("reduce", "sort", "scatter", "select-and-scatter", "map", "reduce-window")


def count_costs(text: str) -> Costs:
    """Count what one execution of a program does on one device.

    Args:
        text: of an optimised program, `compiled.as_text()`, of the TPU or CPU backend. Products that a CPU
            program hands to a library (custom-call) are not seen.

    Returns:
        The costs; of a conditional the branch with most multiply-adds. The only kernel that is counted is the
        one that XLA makes of attention on a TPU.

    Raises:
        ValueError: the number of turns of a loop cannot be read, or the text is no program.
    """
    computations, entry = _parse(text)
    if entry is None:
        raise ValueError("the text has no ENTRY computation")

    @functools.cache
    def costs(name: str) -> Costs:
        flops, collectives = 0.0, []
        types = {i.name: i.type for i in computations[name]}
        for i in computations[name]:
            flops += _flops(i, types)
            collectives += _collectives(i, types)
            times = 1
            if i.op == "while":
                times = _trips(i, computations)
            if i.op in _IGNORED or i.op.endswith(("-done", "-update")):
                continue
            called = [costs(c) for kind, c in _CALLED.findall(i.attributes) if kind != "condition"]
            called = [] if i.op.startswith(KINDS) else called
            branches = [
                costs(b)
                for many, one in _BRANCHES.findall(i.attributes)
                for b in (_NAME.findall(many) or many.split(", ") if many else [one])
            ]
            for inner in called + ([max(branches, key=lambda c: c.flops)] if branches else []):
                flops += times * inner.flops
                collectives += [c._replace(times=c.times * times) for c in inner.collectives]
        return Costs(flops, collectives)

    return costs(entry)


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str | None]:
    """Split a program into its computations."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = None, []
    for line in text.splitlines():
        if not line.startswith(" "):
            header = _HEADER.match(line)
            if header and not line.startswith("HloModule"):
                current = computations[header[2]] = []
                entry = header[2] if header[1] else entry
            continue
        found = _INSTRUCTION.match(line)
        op = _OP.search(found[2]) if found else None
        if found and op:
            operands, _, attributes = found[2][op.end() :].partition(")")
            current.append(_Instruction(found[1], found[2][: op.start()], op[1], operands, attributes))
    return computations, entry


def _shape(type_text: str) -> tuple[int, ...]:
    found = _ARRAY.search(type_text)
    return tuple(int(size) for size in found[2].split(",") if size) if found else ()


def _nbytes(type_text: str) -> int:
    """Sum the bytes of all arrays of a type, which may be a tuple."""
    total = 0
    for dtype, sizes in _ARRAY.findall(type_text):
        bits = re.search(r"\d+", dtype)
        width = max(int(bits[0]) // 8, 1) if bits else 1
        total += width * math.prod(int(size) for size in sizes.split(",") if size)
    return total


def _operand_types(i: _Instruction, types: Mapping[str, str]) -> list[str]:
    return [types[name] for name in _NAME.findall(i.operands) if name in types]


def _flops(i: _Instruction, types: Mapping[str, str]) -> float:
    if i.op == "dot":
        lhs = _shape(_operand_types(i, types)[0])
        contracting = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes)
        axes = [int(axis) for axis in contracting[1].split(",") if axis] if contracting else []
        return 2.0 * math.prod(_shape(i.type)) * math.prod(lhs[axis] for axis in axes)
    if i.op == "custom-call" and 'op_name="online-softmax"' in i.attributes:
        # What XLA makes of attention on a TPU: softmax of [.., Q, K] times [.., K, D].
        scores = _shape(_operand_types(i, types)[0])
        return 2.0 * math.prod(_shape(i.type)) * scores[-1]
    if i.op != "convolution":
        return 0.0
    lhs, rhs = (_shape(t) for t in _operand_types(i, types))
    out, labels = _shape(i.type), _LABELS.search(i.attributes)
    assert labels is not None, i
    window = _window(i.attributes, sum(label.isdigit() for label in labels[1]))
    pairs = 1
    for axis, (size, stride, low, input_dilation, tap_dilation) in enumerate(window):
        where = [labels[n].index(str(axis)) for n in (1, 2, 3)]
        assert rhs[where[1]] == size, i
        pairs *= useful_taps(
            lhs[where[0]],
            out[where[2]],
            size,
            stride=stride,
            pad_low=low,
            lhs_dilate=input_dilation,
            rhs_dilate=tap_dilation,
        )
    features = rhs[labels[2].index("i")]
    return 2.0 * pairs * out[labels[3].index("b")] * out[labels[3].index("f")] * features


def _window(attributes: str, rank: int) -> Iterable[tuple[int, int, int, int, int]]:
    """Read (size, stride, low padding, input dilation, tap dilation) of each spatial axis."""
    found = _WINDOW.search(attributes)
    fields = dict(part.split("=") for part in found[1].split()) if found else {}

    def read(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * rank

    low = [part.partition("_")[0] for part in read("pad", "0_0")]
    columns = (read("size", "1"), read("stride", "1"), low, read("lhs_dilate", "1"), read("rhs_dilate", "1"))
    return [tuple(map(int, row)) for row in zip(*columns, strict=True)]


def _collectives(i: _Instruction, types: Mapping[str, str]) -> list[Collective]:
    kind = i.op.removesuffix("-start")
    if kind not in KINDS:
        return []
    operands = sum(map(_nbytes, _operand_types(i, types)))
    result = _nbytes(i.type) - (operands if i.op.endswith("-start") else 0)
    op_name = _OP_NAME.search(i.attributes)
    nbytes = result if kind == "all-gather" else operands
    return [Collective(kind, nbytes, 1, op_name[1] if op_name else "")]


def _trips(i: _Instruction, computations: Mapping[str, list[_Instruction]]) -> int:
    """Read how often a loop turns: from XLA's note, or the bound that its counter is compared with."""
    known = _TRIPS.search(i.attributes)
    if known:
        return int(known[1])
    condition = dict(_CALLED.findall(i.attributes)).get("condition", "")
    bounds = [
        int(c.operands)
        for c in computations.get(condition, [])
        if c.op == "constant"
        and c.type.lstrip().startswith(("s32[]", "u32[]", "s64[]"))
        and c.operands.isdigit()
    ]
    if len(bounds) != 1:
        raise ValueError(f"the number of turns of the loop {i.name!r} cannot be read from the program")
    return bounds[0]
