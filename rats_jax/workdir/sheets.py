"""Sheets of samples in a work directory: samples/step_NNNNNN.png, of videos a .webp that plays beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

from etils import epath

from rats_jax.paths import kind_of

Folder = TypeVar("Folder", Path, epath.Path)

_FOLDER, _FILE = "samples", re.compile(r"step_(\d+)\.(png|webp)")


def sheet_stem(folder: Path, step: int) -> Path:
    """Give the file of a sheet without its suffix."""
    return folder / _FOLDER / f"step_{step:06d}"


def find_sheets(folder: Folder) -> dict[int, Folder]:
    """List the sheets of a run by update, in their order; of videos the files that play.

    Args:
        folder: of its logs, here or in a bucket.
    """
    samples, found = folder / _FOLDER, {}
    for file in sorted(samples.iterdir() if kind_of(samples) == "folder" else []):
        if named := _FILE.fullmatch(file.name):
            found[int(named[1])] = file  # .webp comes after .png
    return dict(sorted(found.items()))
