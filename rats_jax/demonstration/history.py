"""Sheets and curves that a run has left so far, as files of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rats_jax.paths import any_path, is_hub_id, is_remote, kind_of
from rats_jax.workdir.sheets import find_sheets


class History(NamedTuple):
    """What a run has drawn.

    Attributes:
        sheets: files with what they are of, in the order of the updates; of videos those that play.
        curves: the file of the curves, or None.
    """

    sheets: list[tuple[Path, str]]
    curves: Path | None


def find_history(path: str, copies: Path) -> History:
    """List what is there now; a run that goes on has more the next time.

    Args:
        path: work directory of a run, here or in a bucket, or any other model, which has nothing.
        copies: a folder of this machine; files of a bucket are copied there, once.
    """
    if is_hub_id(path):
        return History([], None)
    folder = any_path(path, "model")
    curves = folder / "curves.png"

    def here(file: Any, *, changes: bool) -> Path:
        if not is_remote(path):
            return Path(file)
        copy = copies / file.name
        if changes or not copy.exists():
            copy.write_bytes(file.read_bytes())
        return copy

    sheets = [(here(file, changes=False), f"update {update}") for update, file in find_sheets(folder).items()]
    return History(sheets, here(curves, changes=True) if kind_of(curves) == "file" else None)
