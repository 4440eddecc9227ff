"""Rules that say where weights live, as text in a config."""

from __future__ import annotations

from collections.abc import Sequence

Rules = Sequence[tuple[str, str]]
"""(regular expression, rule): see `placement.param_sharding`."""


def parse_rule(rule: str) -> tuple[str | None, ...] | None:
    """Read a rule: the axes of a spec, aligned to the right, or None for `largest`.

    Raises:
        ValueError: it is no rule.
    """
    if rule == "largest":
        return None
    words = [] if rule == "copy" else rule.split()
    axes = [word for word in words if word != "-"]
    if not set(axes) <= {"fsdp", "tensor"} or len(set(axes)) < len(axes) or (rule != "copy" and not axes):
        raise ValueError(rule)
    return tuple(None if word == "-" else word for word in words)
