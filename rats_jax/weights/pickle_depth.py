"""How deep tuples lie in each other in a pickle, found without loading it: to hash a deep one ends Python."""

from __future__ import annotations

import pickletools
from collections.abc import Sequence


def tuple_depth(pickled: bytes) -> int:
    """Follow the stack of a pickle as far as tuples and frozen sets go, which are what dicts hash.

    Args:
        pickled: any pickle; its opcodes are read, none is run.

    Returns:
        The most of them that lie in each other, 0 if there are none.

    Raises:
        IndexError, KeyError, ValueError: it is none.
    """
    stack: list[int | None] = []  # the depth of each object; None is a mark
    memo: dict[int, int | None] = {}
    deepest = 0
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name.endswith("PUT"):
            memo[int(argument or 0)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[int(argument or 0)])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MARK":
            stack.append(None)
        elif name == "BUILD":  # what is built stays what it is
            stack.pop()
        else:
            inside = _pop(stack, opcode.stack_before)
            holds = "TUPLE" in name or name == "FROZENSET"
            depth = 1 + max(inside, default=0) if holds else 0
            deepest = max(deepest, depth)
            stack += [depth] * len(opcode.stack_after)
    return deepest


def _pop(stack: list[int | None], wanted: Sequence[object]) -> list[int]:
    """Take the depths of what an opcode takes: so many objects, or all down to the last mark."""
    taken, count = [], len(wanted)
    if pickletools.markobject in wanted:
        while (depth := stack.pop()) is not None:
            taken.append(depth)
        count = wanted.index(pickletools.markobject)
    return [*taken, *(stack.pop() or 0 for _ in range(count))]
