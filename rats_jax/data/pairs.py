"""Pictures and their prompts: a folder beside a text file, or beside rows that name the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from rats_jax.data.pictures import find_pictures
from rats_jax.data.prompts import read_prompts, read_records
from rats_jax.data.rows import has_fields
from rats_jax.errors import ConfigError


class Pair(NamedTuple):
    """A picture's file and its prompt."""

    file: Path
    prompt: str


def read_pairs(images: Path, prompts: Path) -> list[Pair]:
    """Match the pictures of a folder with prompts; no picture is read yet.

    Args:
        images: folder of pictures.
        prompts: a text file with one prompt per picture, which go by their names with numbers in order (2
            before 10), or with one prompt for all; or .jsonl, .ndjson, .json, .csv or .tsv, `file_name` and
            the prompt, as `read_prompts` finds it, in a row.

    Returns:
        The pairs, in the order of the names, or of the rows.

    Raises:
        ConfigError: no pictures, other counts, a picture that is not there, or prompts that cannot be read.
    """
    if not images.is_dir():
        raise ConfigError(f"images={str(images)!r}: expected an existing folder")
    if has_fields(prompts):
        return [_pair(images, record, place) for place, record in read_records(prompts)]
    files, others = find_pictures(images)
    others = [name for name in others if images / name != prompts]
    passed_over = f"passed over {len(others)} that are none, e.g. {', '.join(map(repr, others[:3]))}"
    if not files:
        found = f" ({passed_over})" if others else ""
        raise ConfigError(f"images={str(images)!r}: expected pictures, .png, .jpg or another format{found}")
    texts = read_prompts(prompts)
    if len(texts) not in (1, len(files)):
        raise ConfigError(
            f"prompts={str(prompts)!r}: has {len(texts)} prompts, expected one for each of the {len(files)} "
            f"pictures in {str(images)!r}, or one for all" + (f" ({passed_over})" if others else "")
        )
    if others:
        logging.warning("images=%r: has %d pictures; %s", str(images), len(files), passed_over)
    texts = texts * len(files) if len(texts) == 1 else texts
    return [Pair(*pair) for pair in zip(files, texts, strict=True)]


def _pair(images: Path, record: dict[str, Any], place: str) -> Pair:
    name = record.get("file_name")
    if not isinstance(name, str) or not _is_file(images / name):
        raise ConfigError(f"prompts={place!r}: file_name={name!r}, expected a picture in {str(images)!r}")
    return Pair(images / name, record["prompt"])


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long, a folder that may not be read
        return False
