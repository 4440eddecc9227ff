"""Sheets of pictures and videos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from rats_jax.data.frames import choose_frames
from rats_jax.files import whole_file
from rats_jax.report.mp4 import to_mp4
from rats_jax.texts import writable

_TILE = 128
_CAPTION = 30
_MARGIN = 92
# Of a video a sheet shows so many frames side by side, so high.
_STRIP, _STRIP_TILE = 4, 64
_FRAMES_PER_SECOND = 16  # Wan2.1's, which a file of a video is played at
_IMAGE_DESCRIPTION = 0x010E  # of EXIF


class Sheet(NamedTuple):
    """A sheet, and of videos its frames: the same sheet with all videos at one moment, moment by moment."""

    picture: Image.Image
    frames: list[Image.Image]


def draw_sheet(
    rows: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]], titles: Sequence[str]
) -> Sheet:
    """Draw rows of pictures or videos, the same prompt and noise in each column.

    Args:
        rows: by name, [N, H, W, 3] or [N, T, H, W, 3] float in [0, 1].
        captions: by the same names, N short texts, shown under the pictures.
        titles: N prompts, shown on top.

    Returns:
        The sheet; of a video it shows frames at even distances, the first and the last among them.
    """
    shape = next(iter(rows.values())).shape
    if len(shape) == 4:
        return Sheet(_draw_rows(rows, captions, titles, _TILE), [])
    moments = [{name: videos[:, t] for name, videos in rows.items()} for t in range(shape[1])]
    frames = [_draw_rows(moment, captions, titles, _TILE) for moment in moments]
    if len(frames) == 1:
        return Sheet(frames[0], [])
    return Sheet(_draw_rows(rows, captions, titles, _STRIP_TILE), frames)


def _draw_rows(
    rows: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]], titles: Sequence[str], tile: int
) -> Image.Image:
    font = ImageFont.load_default(size=11)
    width = to_picture(next(iter(rows.values()))[0], tile).width
    height = _CAPTION + len(rows) * (tile + _CAPTION)
    sheet = Image.new("RGB", (_MARGIN + len(titles) * (width + 4), height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((_MARGIN + column * (width + 4), 8), _fit(title, font, width), "black", font)
    for row, (name, images) in enumerate(rows.items()):
        top = _CAPTION + row * (tile + _CAPTION)
        draw.text((6, top + tile // 2 - 6), name, "black", font)
        for column, image in enumerate(images):
            left = _MARGIN + column * (width + 4)
            sheet.paste(to_picture(image, tile), (left, top))
            draw.text((left, top + tile + 4), captions[name][column], "black", font)
    return sheet


def draw_grid(images: np.ndarray, titles: Sequence[str], *, columns: int, tile: int = 72) -> Image.Image:
    """Draw pictures, or frames of videos, in rows, each above its title.

    Args:
        images: [N, H, W, 3] or [N, T, H, W, 3] float in [0, 1].
        titles: N short texts.
        columns: pictures in a row.
        tile: height of a picture in pixels.

    Returns:
        The sheet.
    """
    font = ImageFont.load_default(size=9)
    side = to_picture(images[0], tile).width
    width, height = side + 6, tile + 18
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        left, top = i % columns * width + 3, i // columns * height + 3
        sheet.paste(to_picture(image, tile), (left, top))
        draw.text((left, top + tile + 1), _fit(title, font, side), "black", font)
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


def to_picture(image: np.ndarray, height: int) -> Image.Image:
    """Turn a picture, or frames of a video, into one of a height in pixels; small ones stay sharp.

    Args:
        image: [H, W, 3] or [T, H, W, 3] float in [0, 1].
        height: of what is returned.
    """
    if image.ndim == 4:
        image = np.concatenate(image[choose_frames(len(image), min(len(image), _STRIP))], axis=1)
    picture = Image.fromarray(_to_bytes(image))
    smooth = Image.Resampling.LANCZOS if picture.height > height else Image.Resampling.NEAREST
    return picture.resize((max(round(height * picture.width / picture.height), 1), height), smooth)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def save_picture(picture: Image.Image, file: Path) -> None:
    """Write a PNG whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as partial:
        picture.save(partial, format="PNG")


def save_sheet(sheet: Sheet, file: Path) -> list[Path]:
    """Write a sheet as FILE.png, and one of videos as FILE.webp, too, in which they play; gives the files."""
    files = [file.with_name(file.name + suffix) for suffix in (".png", ".webp")[: 2 if sheet.frames else 1]]
    save_picture(sheet.picture, files[0])
    if sheet.frames:
        with whole_file(files[1]) as partial:
            _save_frames(sheet.frames, partial)
    return files


def suffix_of(result: np.ndarray) -> str:
    """Give the suffix of a file for a result: a WebP of several frames, else a PNG."""
    return ".webp" if result.ndim == 4 and len(result) > 1 else ".png"


def save_result(result: np.ndarray, file: Path, texts: Mapping[str, str]) -> None:
    """Write a picture as a PNG, and a video as a WebP that plays or as an MP4, by the suffix of the file.

    Args:
        result: [H, W, 3] or [T, H, W, 3] float in [0, 1]; T is 1 in a PNG.
        file: where to: *.png, *.webp or *.mp4.
        texts: what its metadata says, by keyword: of a PNG each by itself, of a WebP as one JSON object in
            its EXIF description, of an MP4 as one in its comment.
    """
    if file.suffix == ".mp4":
        file.write_bytes(to_mp4(_to_bytes(result), texts, rate=_FRAMES_PER_SECOND))
        return
    if file.suffix == ".webp":
        exif = Image.Exif()
        exif[_IMAGE_DESCRIPTION] = json.dumps(dict(texts))
        _save_frames([Image.fromarray(_to_bytes(frame)) for frame in result], file, exif=exif)
        return
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_itxt(keyword, writable(text).decode())
    picture = result[0] if result.ndim == 4 else result
    Image.fromarray(_to_bytes(picture)).save(file, format="PNG", pnginfo=info)


def _save_frames(frames: Sequence[Image.Image], file: Path, **options: Any) -> None:
    timing = {"duration": round(1000 / _FRAMES_PER_SECOND), "loop": 0}
    frames[0].save(
        file, format="WEBP", save_all=True, append_images=frames[1:], quality=90, **timing, **options
    )
