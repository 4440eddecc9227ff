"""Pictures and their prompts: a folder beside a text file or a .jsonl."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from rats_jax.data.prompts import read_prompts, read_records
from rats_jax.errors import ConfigError

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class Pair(NamedTuple):
    """A picture's file and its prompt."""

    file: Path
    prompt: str


def read_pairs(images: Path, prompts: Path) -> list[Pair]:
    """Match the pictures of a folder with prompts; no picture is read yet.

    Args:
        images: folder of pictures.
        prompts: a text file with one prompt per picture, which go by their names with numbers in order (2
            before 10), or with one prompt for all; or .jsonl, `file_name` and `prompt` or `text` in a line.

    Returns:
        The pairs, in the order of the names, or of the .jsonl.

    Raises:
        ConfigError: no pictures, other counts, or a picture that is not there.
    """
    if not images.is_dir():
        raise ConfigError(f"images={str(images)!r}: expected an existing folder")
    if prompts.suffix == ".jsonl":
        return [_pair(images, record, place) for place, record in read_records(prompts)]
    files = sorted((f for f in images.iterdir() if f.suffix.lower() in _PICTURES), key=_in_order)
    if not files:
        raise ConfigError(f"images={str(images)!r}: expected pictures ({', '.join(sorted(_PICTURES))})")
    texts = read_prompts(prompts)
    if len(texts) not in (1, len(files)):
        raise ConfigError(
            f"prompts={str(prompts)!r}: has {len(texts)} prompts, expected one for each of the {len(files)} "
            f"pictures in {str(images)!r}, or one for all"
        )
    texts = texts * len(files) if len(texts) == 1 else texts
    return [Pair(*pair) for pair in zip(files, texts, strict=True)]


def _pair(images: Path, record: dict[str, str], place: str) -> Pair:
    name = record.get("file_name")
    if not isinstance(name, str) or not (images / name).is_file():
        raise ConfigError(f"prompts={place!r}: file_name={name!r}, expected a picture in {str(images)!r}")
    return Pair(images / name, record["prompt"])


def _in_order(file: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", file.name)
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def picture_size(file: Path) -> tuple[int, int]:
    """Read height and width of a picture without its pixels.

    Raises:
        ConfigError: it is no picture.
    """
    try:
        with Image.open(file) as picture:
            return picture.height, picture.width
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigError(f"images={str(file)!r}: expected a readable picture ({error})") from None


def read_picture(file: Path) -> np.ndarray:
    """Read a picture as [H, W, 3] float32 in [0, 1]; what is transparent becomes white.

    Raises:
        ConfigError: it is no picture, or damaged.
    """
    try:
        with Image.open(file) as picture:
            if picture.has_transparency_data:
                picture = Image.alpha_composite(
                    Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")
                )
            return np.asarray(picture.convert("RGB"), np.float32) / 255.0
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigError(f"images={str(file)!r}: expected a readable picture ({error})") from None
