"""Sheets of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from rats_jax.files import whole_file
from rats_jax.texts import writable

_TILE = 128
_CAPTION = 30
_MARGIN = 92


def draw_sheet(
    rows: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]], titles: Sequence[str]
) -> Image.Image:
    """Draw rows of pictures, the same prompt and noise in each column.

    Args:
        rows: by name, [N, H, W, 3] float in [0, 1].
        captions: by the same names, N short texts, shown under the pictures.
        titles: N prompts, shown on top.

    Returns:
        The sheet.
    """
    font = ImageFont.load_default(size=11)
    height = _CAPTION + len(rows) * (_TILE + _CAPTION)
    sheet = Image.new("RGB", (_MARGIN + len(titles) * (_TILE + 4), height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((_MARGIN + column * (_TILE + 4), 8), _fit(title, font, _TILE), "black", font)
    for row, (name, images) in enumerate(rows.items()):
        top = _CAPTION + row * (_TILE + _CAPTION)
        draw.text((6, top + _TILE // 2 - 6), name, "black", font)
        for column, image in enumerate(images):
            left = _MARGIN + column * (_TILE + 4)
            sheet.paste(to_picture(image, _TILE), (left, top))
            draw.text((left, top + _TILE + 4), captions[name][column], "black", font)
    return sheet


def draw_grid(images: np.ndarray, titles: Sequence[str], *, columns: int, tile: int = 72) -> Image.Image:
    """Draw pictures in rows, each above its title.

    Args:
        images: [N, H, W, 3] float in [0, 1].
        titles: N short texts.
        columns: pictures in a row.
        tile: side of a picture in pixels.

    Returns:
        The sheet.
    """
    font = ImageFont.load_default(size=9)
    width, height = tile + 6, tile + 18
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        left, top = i % columns * width + 3, i // columns * height + 3
        sheet.paste(to_picture(image, tile), (left, top))
        draw.text((left, top + tile + 1), _fit(title, font, tile), "black", font)
    return sheet


def _fit(text: str, font: Any, width: int) -> str:
    """Put a text in one line and cut it to a width in pixels.

    A letter takes a pixel at least, so that of a long text no more than `width` letters are ever measured.
    """
    line = " ".join(text.split())
    if len(line) <= width and font.getlength(line) <= width:
        return line
    cuts = (line[:end].rstrip() + "\u2026" for end in range(min(len(line) - 1, width), 0, -1))
    return next((cut for cut in cuts if font.getlength(cut) <= width), "\u2026")


def to_picture(image: np.ndarray, side: int) -> Image.Image:
    """Turn [H, W, 3] float in [0, 1] into a square picture; small ones are enlarged without smoothing."""
    picture = Image.fromarray(_to_bytes(image))
    smooth = Image.Resampling.LANCZOS if picture.width > side else Image.Resampling.NEAREST
    return picture.resize((side, side), smooth)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def save_picture(picture: Image.Image, file: Path) -> None:
    """Write a PNG whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as partial:
        picture.save(partial, format="PNG")


def save_image(image: np.ndarray, file: Path, texts: Mapping[str, str]) -> None:
    """Write [H, W, 3] float in [0, 1] as a PNG of its own size.

    Args:
        image: the picture.
        file: where to.
        texts: what its metadata says, by keyword.
    """
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_itxt(keyword, writable(text).decode())
    Image.fromarray(_to_bytes(image)).save(file, format="PNG", pnginfo=info)
