"""Rows of a file of prompts, in the formats that people have them in: the suffix says which."""

from __future__ import annotations

import csv
import io
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from rats_jax.errors import ConfigError, reason_of
from rats_jax.texts import MARK, is_whole, parse_whole_json, read_text, split_lines

Row = tuple[str, Any]
"""Where it stands, for messages, and a text, a dict of fields, or whatever else the file has there."""
_TABLES = ".parquet .arrow .feather .avro .orc .xlsx .xls .xlsm .ods .db .sqlite .sqlite3"
_ARRAYS = (
    ".pkl .pickle .npy .npz .pt .pth .ckpt .bin .safetensors .h5 .hdf5 .tfrecord .tfrecords .array_record"
)
_ARCHIVES = ".gz .tgz .bz2 .xz .zst .zip .tar .7z .rar"
_MARKUP = ".yaml .yml .toml .ini .xml .html .htm .md .rst .tex .pdf .doc .docx .odt .rtf .py .ipynb"
_PICTURES = ".png .jpg .jpeg .webp .gif"
_OTHERS = frozenset(" ".join((_TABLES, _ARRAYS, _ARCHIVES, _MARKUP, _PICTURES)).split())


def has_fields(path: str | Path) -> bool:
    """Tell by its suffix whether the rows of a file have fields: .jsonl, .ndjson, .json, .csv and .tsv."""
    return Path(path).suffix.lower() in _READERS


def read_rows(path: str | Path | epath.Path) -> list[Row]:
    """Read the rows of a file, in its order; blank lines are skipped.

    Args:
        path: .jsonl or .ndjson, a JSON value per line; .json, an array; .csv or .tsv, whose first row names
            the columns; anything else is text with one prompt per line. Suffixes in any letter case.

    Returns:
        The rows, at least one.

    Raises:
        ConfigError: the file is missing, unreadable, of another format, or without a row.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _OTHERS:
        raise ConfigError(
            f"prompts={str(path)!r}: expected text with one prompt per line, or {', '.join(_READERS)}; "
            f"{suffix} is not read"
        )
    try:
        text = read_text(Path(path) if isinstance(path, str) else path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"prompts={str(path)!r}: expected a readable text file ({reason_of(error)})"
        ) from None
    found = list(_READERS.get(suffix, _read_lines)(str(path), text))
    if not found:
        raise ConfigError(f"prompts={str(path)!r}: expected at least one prompt, the file is empty")
    return found


def strip(text: str) -> str:
    """Leave out blanks around a text, and the byte order marks that joined files have inside."""
    return text.strip().strip(MARK).strip()


def check_prompt(prompt: Any, field: str) -> str:
    """Give a prompt stripped.

    Args:
        prompt: a text, or whatever else a caller gives.
        field: where it is from, for the message.

    Raises:
        ConfigError: it is no text, or blank, or has what cannot be written into any file.
    """
    if not isinstance(prompt, str):
        raise ConfigError(f"{field}: expected a text, found {brief(prompt)}")
    text = strip(prompt)
    if not text:
        raise ConfigError(f"{field}: expected a prompt, found a blank text")
    if "\0" in text or not is_whole(text):
        raise ConfigError(f"{field}: expected a text of whole characters, found {brief(text)}")
    return text


def _read_lines(path: str, text: str) -> Iterator[Row]:
    """Read the lines that are not blank."""
    for number, line in enumerate(split_lines(text), start=1):
        if strip(line):
            yield f"{path}:{number}", strip(line)


def _read_json_lines(path: str, text: str) -> Iterator[Row]:
    for place, line in _read_lines(path, text):
        try:
            row = parse_whole_json(line)
        except ValueError as error:
            reason = getattr(error, "msg", error)
            raise ConfigError(f"prompts={place!r}: expected a JSON object ({reason})") from None
        yield place, row


def _read_json_array(path: str, text: str) -> Iterator[Row]:
    if not strip(text):
        return
    try:
        content = parse_whole_json(text)
    except ValueError as error:
        hint = "; a file with one value per line ends in .jsonl" if "Extra data" in str(error) else ""
        raise ConfigError(f"prompts={path!r}: expected a JSON array ({error}){hint}") from None
    if not isinstance(content, list):
        raise ConfigError(
            f"prompts={path!r}: expected a JSON array of texts or objects, found {brief(content)}"
        )
    for number, row in enumerate(content, start=1):
        yield f"{path}, item {number}", row


def _read_csv(path: str, text: str) -> Iterator[Row]:
    header = split_lines(text)[0]
    return _read_table(path, text, ";" if ";" in header and "," not in header else ",")


def _read_tsv(path: str, text: str) -> Iterator[Row]:
    return _read_table(path, text, "\t")


def _read_table(path: str, text: str, delimiter: str) -> Iterator[Row]:
    """Read rows of cells as dicts by the names of the columns; a cell may hold line ends."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names, start = None, 1
    try:
        for cells in lines:
            place, start = f"{path}:{start}", lines.line_num + 1
            if not any(map(strip, cells)):
                continue
            if names is None:
                names = _columns(cells, place)
                continue
            if len(cells) < len(names) or any(map(strip, cells[len(names) :])):
                raise ConfigError(
                    f"prompts={place!r}: expected {len(names)} cells as in the first row, found {len(cells)} "
                    f"(a text with {delimiter!r} in it stands in double quotes)"
                )
            yield place, dict(zip(names, cells, strict=False))
    except csv.Error as error:
        raise ConfigError(f"prompts={f'{path}:{start}'!r}: expected a row of cells ({error})") from None


def _columns(cells: list[str], place: str) -> list[str]:
    """Read the names of the columns, without empty ones at the end."""
    names = [strip(name) for name in cells]
    while not names[-1]:
        names.pop()
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise ConfigError(f"prompts={place!r}: expected columns of different names, found {twice[0]!r} twice")
    return names


def brief(value: Any) -> str:
    """Say in a few words what was found."""
    if isinstance(value, dict):
        names = [repr(name)[:40] for name in value]
        more = ", ..." if len(names) > 12 else ""
        return f"the fields {', '.join(names[:12])}{more}" if names else "no field"
    return reprlib.repr(value)[:60]


_READERS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json_array,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
