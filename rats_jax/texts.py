"""Text and JSON of files that any program wrote: what is read, and what is wrong with it in plain words."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Protocol, TextIO

from rats_jax.errors import reason_of

MARK = "\ufeff"
"""A byte order mark, decoded."""
# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOO_DEEP = "too many brackets inside each other"


class _File(Protocol):
    def read_bytes(self) -> bytes: ...


def read_text(file: _File) -> str:
    """Read a text file without its byte order mark; its line ends stay as they are.

    Args:
        file: local or in a bucket; UTF-8, or what its mark says: UTF-16, UTF-32.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text; one line that says why.
    """
    return decode(file.read_bytes())


def decode(content: bytes) -> str:
    """Decode UTF-8, or what the byte order mark says, without the mark.

    Raises:
        ValueError: it is no text; one line that says why.
    """
    mark, encoding = next((m for m in _MARKS if content.startswith(m[0])), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content[len(mark) :][: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not {encoding.upper()}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"line {line} has a NUL character, which is in no text")
    return text


def has_mark(file: Path) -> bool:
    """Tell whether a file begins with a byte order mark."""
    with file.open("rb") as stream:
        start = stream.read(4)
    return any(start.startswith(mark) for mark, _ in _MARKS)


def split_lines(text: str) -> list[str]:
    r"""Split a text at \n, \r\n and \r alone: other separators, such as U+2028, are part of a line."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def parse_json(text: str) -> Any:
    """Parse JSON; texts in it may hold halves of surrogate pairs, as paths do that are not UTF-8.

    Raises:
        ValueError: it is none, or beyond what Python parses; one line says why.
    """
    try:
        return json.loads(text, object_pairs_hook=_read_pairs)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except (json.JSONDecodeError, _TwiceError):
        raise
    except ValueError:  # Python's limit of digits
        raise ValueError("an integer of thousands of digits") from None


class _TwiceError(ValueError):
    """A name that an object has twice, of which readers take one or the other."""


def _read_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(f"the name {twice!r:.80} twice in one object")
    return content


def parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON object, as `parse_json` does.

    Raises:
        ValueError: as `parse_json`, or it is something else.
    """
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def parse_whole_json(text: str) -> Any:
    """Parse JSON whose texts are whole, so that they can be written again.

    Raises:
        ValueError: as `parse_json`, or it holds half of a surrogate pair.
    """
    content = parse_json(text)
    try:
        whole = "\\u" not in text or is_whole(json.dumps(content, ensure_ascii=False))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if not whole:
        raise ValueError("half a character: a surrogate without its other half")
    return content


def is_whole(text: str) -> bool:
    """Tell whether a text has no half of a surrogate pair, which nothing can write."""
    return _SURROGATE.search(text) is None


def writable(text: str) -> bytes:
    """Encode a text as UTF-8; what cannot be written, as a path that is none, is escaped with a backslash."""
    return text.encode(errors="backslashreplace")


def show(text: str) -> None:
    """Print a result at once; where that fails, warn and go on, so that files are still written."""
    try:
        print(text, flush=True)
    except OSError as error:  # `| head` reads no more, `> file` is on a full disk
        close_output(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            print(f"warning: standard output cannot be written ({reason_of(error)})", file=sys.stderr)


def close_output(*streams: TextIO) -> None:
    """Drop what is printed from now on, and what is buffered."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
