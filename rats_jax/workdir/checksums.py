"""Checksums of a checkpoint's files: written with it, compared before it is read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection
from pathlib import Path

from rats_jax.texts import parse_json, read_text

FILE = "checksums.json"
"""In the folder of a checkpoint: size and CRC-32 of every other file in it, by its path from there."""
_BYTES = 1 << 20


def write_checksums(folder: Path, *, skip: Collection[str] = ()) -> None:
    """Write the checksums of all files of a folder into it, but for those, by path, that will change."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    names = [name for name in names if name not in (FILE, *skip)]
    sums = {name: [(folder / name).stat().st_size, _crc(folder / name)] for name in names}
    (folder / FILE).write_text(json.dumps(sums, indent=1) + "\n")


def find_damage(folder: Path) -> str:
    """Compare a folder with its checksums.

    Returns:
        What is wrong with the first file that is not as it was written; empty if all are, or if the folder
        has no checksums, as those of before and those in buckets.
    """
    if not (folder / FILE).exists():
        return ""
    try:
        sums = parse_json(read_text(folder / FILE))
        for name, (size, crc) in sums.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes, {size} were written"
            if _crc(file) != crc:
                return f"{name} is not as it was written"
    except (ValueError, AttributeError, TypeError):
        return f"{FILE} is damaged"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    return ""


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(_BYTES):
            crc = zlib.crc32(block, crc)
    return crc
