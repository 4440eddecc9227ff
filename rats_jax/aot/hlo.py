"""Costs of one execution of a compiled XLA program on one device, counted in the program's text.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from rats_jax.aot.hlo_text import (
    BODY,
    CALLED,
    INTEGER,
    SHAPE,
    TRIPS,
    Computation,
    branches,
    count_bytes,
    first,
    parse,
)
from rats_jax.aot.products import call_flops, product_flops

_COLLECTIVES = ["all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"]
_COLLECTIVES += ["ragged-all-to-all", "collective-broadcast"]
_KINDS = {opcode: kind for kind in _COLLECTIVES for opcode in (kind, f"{kind}-start")}
_CALLS = {"fusion", "call", "async-start", "custom-call"}
_COUNTED = {*_KINDS, *_CALLS, "dot", "ragged-dot", "convolution", "while", "conditional"}
_COUNTERS = ("s32[]", "u32[]", "s64[]", "u64[]", "(")  # types of loop counters, and tuples that may hold one

_CONDITION = re.compile(r"\bcondition=%([^\s,]+)")
_OP_NAME = re.compile(r'\bop_name="([^"]*)"')
_INDEX = re.compile(r"\bindex=(\d+)")
_CHAIN = re.compile(r'\bchannel_id=\d+|\bchain_id="[^"]*"')


class Collective(NamedTuple):
    """A collective instruction.

    Attributes:
        kind: its synchronous opcode, such as 'all-gather'.
        bytes: what one execution moves, as `count_costs` defines it.
        times: how often it runs, the product of the trip counts around it.
        shape: the arrays that the bytes are of, such as 'bf16[3,3,320,320]', separated by ', '.
        op_name: the jax operation that it was made for, '' if the text does not say.
    """

    kind: str
    bytes: float
    times: int
    shape: str
    op_name: str


class Costs(NamedTuple):
    """What one execution costs one device; see `count_costs`."""

    flops: float
    collective_bytes: dict[str, float]
    collectives: list[Collective]


_Cost = tuple[float, list[Collective]]


class _Program(NamedTuple):
    computations: dict[str, Computation]
    counted: dict[str, _Cost]  # by computation
    started: set[str]  # asynchronous chains of which the start was met
    continued: set[str]  # and those of which a later step was


def count_costs(text: str) -> Costs:
    """Count the flops and the collectives of one execution on one device.

    Bytes are of what enters or leaves the collective on one device, whichever is the whole: all-gather, the
    output; reduce-scatter, the input; all others, the operands. An asynchronous collective counts once, and
    of a conditional the most expensive branch. What XLA adds counts too: a TPU splits and pads some
    convolutions, and computes what falls into the seams twice.

    Args:
        text: `compiled.as_text()`, of a CPU, TPU or NVIDIA GPU.

    Returns:
        Flops: 2 * the multiply-adds of every dot and convolution, of the latter those of `flops.useful_taps`,
        of the attention that XLA:TPU fuses, of `networks/attention_flash.py`, and of what cuDNN and cuBLAS
        are called for. Collective bytes: by kind, each times its trip counts; kinds that do not occur are not
        there. Collectives: one for each instruction and each place that calls it.

    Raises:
        ValueError: if the text has no entry computation, if the trip count of a loop that costs anything
            cannot be found, or if a custom call (a Pallas kernel, a library's dot) hides its multiply-adds.
    """
    entry, computations = parse(text)
    program = _Program(computations, {}, set(), set())
    flops, collectives = _count(program, entry, [])
    if lost := program.continued - program.started:
        raise ValueError(f"{min(lost)}: steps of an asynchronous collective without its start")
    totals: dict[str, float] = {}
    for item in collectives:
        totals[item.kind] = totals.get(item.kind, 0.0) + item.bytes * item.times
    return Costs(flops, totals, list(collectives))


def _count(program: _Program, name: str, arguments: list[Any]) -> _Cost:
    """Count a computation, once; `arguments` are the `_value` of its parameters."""
    if name not in program.counted:
        computation, flops, collectives = program.computations[name], 0.0, []
        for label, instruction in computation.items():
            if label and instruction.opcode in _COUNTED:
                more_flops, more = _cost(program, computation, label, arguments)
                flops += more_flops
                collectives += more
        program.counted[name] = flops, collectives
    return program.counted[name]


def _cost(program: _Program, computation: Computation, label: str, arguments: list[Any]) -> _Cost:
    opcode, kind, tail, operands = computation[label]
    types = [computation[operand].type for operand in operands]
    if opcode in _KINDS:
        return 0.0, _collective(program, computation, label, types)
    if opcode == "while":
        return _loop(program, computation, label, arguments)
    if opcode == "conditional":
        costs = [_count(program, name, []) for name in branches(tail)]
        return max(costs, key=lambda cost: (cost[0], sum(item.bytes * item.times for item in cost[1])))
    if opcode not in _CALLS:
        return product_flops(label, opcode, kind, types, tail), []
    flops = call_flops(label, kind, types, tail) if opcode == "custom-call" else 0.0
    if not (called := first(CALLED, tail)):
        return flops, []
    inner, collectives = _count(program, called, [])
    if called.startswith("all-reduce-scatter"):  # so a TPU writes it: an all-reduce of which a slice is taken
        collectives = [item._replace(kind="reduce-scatter") for item in collectives]
    outer = first(_OP_NAME, tail)
    return flops + inner, [item._replace(op_name=item.op_name or outer) for item in collectives]


def _collective(
    program: _Program, computation: Computation, label: str, types: list[str]
) -> list[Collective]:
    opcode, kind, tail, _ = computation[label]
    if '"async_collective_fusion_config"' in tail:  # a TPU repeats it in each step that other work overlaps
        starts = any('"AsyncCollectiveStart"' in other.tail for other in computation.values())
        (program.started if starts else program.continued).add(" ".join(_CHAIN.findall(tail)))
        if not starts:
            return []
    arrays = list(SHAPE.finditer(", ".join(types)))
    if opcode == "all-gather":
        arrays = list(SHAPE.finditer(kind))
    elif opcode == "all-gather-start":  # a tuple: the operands, the outputs, then what the device needs
        arrays = list(SHAPE.finditer(kind))[len(arrays) : 2 * len(arrays)]
    moved = sum(count_bytes(a[0]) for a in arrays)
    return [Collective(_KINDS[opcode], moved, 1, ", ".join(a[0] for a in arrays), first(_OP_NAME, tail))]


def _loop(program: _Program, computation: Computation, label: str, arguments: list[Any]) -> _Cost:
    _, _, tail, operands = computation[label]
    condition, body = first(_CONDITION, tail), first(BODY, tail)
    before = _value(program, computation, operands[0], arguments) or []
    state: Any = [(i, 0) for i in range(len(before))]
    after = _value(program, program.computations[body], "", [state]) or []
    # What each iteration hands on as it was is known inside the loop too.
    state = [b if b and a == same else same for b, a, same in zip(before, after, state, strict=False)]
    flops, collectives = _count(program, body, [state])
    if not flops and not collectives:
        return 0.0, []  # whatever its trip count
    known = first(TRIPS, tail) or _trip_count(program, condition, before, after, state)
    if known is None:
        raise ValueError(f"{label}: the trip count of the loop {body} is not in the text")
    return flops * int(known), [item._replace(times=item.times * int(known)) for item in collectives]


def _trip_count(program: _Program, condition: str, before: Any, after: Any, state: Any) -> int | None:
    """Solve counter < bound for a counter that grows by a constant; None if the loop is of another form."""
    arguments = [state]
    while (root := program.computations[condition][""]).opcode == "fusion":
        arguments = [_value(program, program.computations[condition], x, arguments) for x in root.operands]
        condition = first(CALLED, root.tail)
    if root.opcode != "compare" or "direction=LT" not in root.tail:
        return None
    counter, bound = (_value(program, program.computations[condition], x, arguments) for x in root.operands)
    if not counter or not bound or counter[0] is None or bound[0] is not None:
        return None
    start, end = before[counter[0]], after[counter[0]]
    fixed = start and end and start[0] is None and end[0] == counter[0] and end[1] >= 1
    return max(0, -((start[1] + counter[1] - bound[1]) // end[1])) if fixed else None


def _value(program: _Program, computation: Computation, name: str, arguments: list[Any]) -> Any:
    """What is known of an integer or a tuple before the program runs.

    Returns:
        (None, n): the constant n; (i, n): n more than element i of the state that the loop's iteration starts
        from; a list of these: a tuple; None: nothing.
    """
    opcode, kind, tail, operands = computation[name]
    if not kind.startswith(_COUNTERS):
        return None
    if opcode == "constant":
        number = tail.partition(")")[0]
        return (None, int(number)) if INTEGER.fullmatch(number) else None
    if opcode == "parameter":
        return dict(enumerate(arguments)).get(int(tail.partition(")")[0]))
    values = [_value(program, computation, operand, arguments) for operand in operands]
    if opcode == "fusion":
        return _value(program, program.computations[first(CALLED, tail)], "", values)
    if opcode == "tuple":
        return values
    if opcode == "get-tuple-element":
        return values[0] and values[0][int(first(_INDEX, tail))]
    if opcode in ("copy", "bitcast", "convert"):
        return values[0]
    if opcode == "add" and all(values) and None in (values[0][0], values[1][0]):
        (i, n), (j, m) = values
        return (j if i is None else i), n + m
    return None
