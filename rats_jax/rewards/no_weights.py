"""What rewards without weights share."""

from __future__ import annotations

from rats_jax.errors import WeightsError


def expect_no_path(kind: str, path: str) -> None:
    """Refuse a path where there is nothing to load.

    Raises:
        WeightsError: the path is not empty.
    """
    if path:
        raise WeightsError(f"path={path!r}: expected '', the reward {kind!r} has no weights")
