"""Picture files, as a viewer shows them: which files of a folder are pictures, their size, their pixels."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from rats_jax.errors import ConfigError, reason_of

CONTACT_SHEET = "contact_sheet.png"
"""What `generate` lays beside its pictures; it shows all of them, and is none."""

# Programs that draw write workflows of more than 1 MB into a PNG, which is all that Pillow allows for one
# text; for all texts of a file together it allows 64 MB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

# A side beyond this makes the matrix of a resize larger than the picture.
_LONGEST_SIDE = 2**18

# Formats of which Pillow knows only the name, or that it gives to another program (EPS to Ghostscript).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# Formats of which Pillow knows the size before the pixels; others turn or change it when they are decoded.
_SIZE_FIRST = {"AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "WEBP"}

# What systems lay into folders; their files that begin with a dot are left out as well.
_COMPANIONS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "lost+found"}

# What a viewer does to show a picture upright, by EXIF's number.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_ASIDE = {5, 6, 7, 8}

# The mode of Pillow for what a colour profile describes.
_PROFILED = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}

_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339


def find_pictures(folder: Path) -> tuple[list[Path], list[str]]:
    """List the pictures of a folder by their suffixes, in the order of their names with numbers in order.

    Args:
        folder: it alone, none below it.

    Returns:
        The pictures, all suffixes that Pillow reads, in any case; and the names of what is passed over,
        folders with a slash, the contact sheet among them. Hidden files and those that systems lay beside
        pictures are in neither.

    Raises:
        ConfigError: the folder cannot be read.
    """
    files, passed_over = [], []
    try:
        for file in sorted(folder.iterdir(), key=_in_order):
            if file.name.startswith(".") or file.name.lower() in _COMPANIONS:
                continue
            if file.is_file() and file.suffix.lower() in _suffixes() and file.name != CONTACT_SHEET:
                files.append(file)
            else:
                passed_over.append(file.name + "/" * file.is_dir())
    except OSError as error:
        raise ConfigError(f"images={str(folder)!r}: expected a readable folder ({error.strerror})") from None
    return files, passed_over


def picture_size(file: Path) -> tuple[int, int]:
    """Read height and width of a picture as it is shown, in most formats without its pixels.

    Raises:
        ConfigError: it is no picture.
    """
    with _opened(file) as picture:
        if picture.format not in _SIZE_FIRST:
            picture.load()
        width, height = picture.size
        return (width, height) if _orientation(picture) in _TURNS_ASIDE else (height, width)


def read_picture(file: Path) -> np.ndarray:
    """Read a picture as [H, W, 3] float32 in [0, 1], as a viewer shows it.

    Greys of more than 8 bits are scaled by their depth, colours go from the file's profile to sRGB, what is
    transparent becomes white, and the picture is turned as its metadata says. Of several frames or pages it
    is the first.

    Raises:
        ConfigError: it is no picture, or damaged.
    """
    with _opened(file) as picture:
        picture.load()
        shown = _on_white(_eight_bits(picture), picture.info.get("icc_profile"))
        turn = _TURNS.get(_orientation(picture))
        shown = shown if turn is None else shown.transpose(turn)
        return np.asarray(shown, np.float32) / 255.0


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open a picture; whatever goes wrong with it then is an error that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they name no file, and what they tell of is mended or refused
            with Image.open(file, formats=_formats()) as picture:
                if max(picture.size) > _LONGEST_SIDE or min(picture.size) < 1:
                    width, height = picture.size
                    raise ValueError(f"it is {width}x{height}, sides may have 1 to {_LONGEST_SIDE} pixels")
                yield picture
    except Exception as error:  # decoders raise all kinds: OSError, SyntaxError, struct.error, ...
        reason = " ".join(_reason(file, error).split())
        raise ConfigError(f"images={str(file)!r}: expected a readable picture ({reason})") from None


def _reason(file: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        with file.open("rb") as stream:
            start = stream.read(16)
        if not start:
            return "it is empty"
        return f"it begins with {start!r}: of no format that Pillow reads, or damaged"
    return reason_of(error)


def _orientation(picture: Image.Image) -> int:
    """Read how the picture is to be turned; viewers show one with damaged metadata as it lies there."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above
        return 1


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale a grey picture of more than 8 bits by its depth; others stay as they are."""
    if not (picture.mode in ("I", "F") or picture.mode.startswith("I;")):
        return picture
    values = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    if picture.mode == "I" and _is_unsigned(tags) and tags[_TIFF_BITS][0] == 32:
        values = values.view(np.uint32)  # Pillow has no such mode
    if not np.isfinite(values).all():
        raise ValueError("it holds nan or infinity")
    depth = _depth(picture, tags, float(values.max()))
    light = np.clip(values.astype(np.float32) / depth, 0.0, 1.0)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:
        light = 1.0 - light  # white is zero, which Pillow minds for 8 bits alone
    # Of 16 bits the upper 8, as Pillow reads colours of 16 bits; of 8 bits stored as floats the same 8 bits.
    grey = Image.fromarray(np.minimum(np.floor(256.0 * light), 255.0).astype(np.uint8))
    hole = picture.info.get("transparency")
    if not isinstance(hole, int):
        return grey
    return Image.merge("LA", [grey, Image.fromarray(np.where(values == hole, 0, 255).astype(np.uint8))])


def _is_unsigned(tags: dict) -> bool:
    return _TIFF_BITS in tags and tuple(tags.get(_TIFF_SAMPLE_FORMAT, (1,)))[0] == 1


def _depth(picture: Image.Image, tags: dict, brightest: float) -> int:
    """Find the value that is white.

    Up to 16 bits the file says it. Integers of 32 bits and floats are written with any range: it is the
    smallest usual one that holds the brightest pixel, where floats in [0, 1] may overshoot.
    """
    bits = tags[_TIFF_BITS][0] if _TIFF_BITS in tags else 32
    if picture.mode != "F" and bits < 32:
        return 2 ** (bits if _is_unsigned(tags) else bits - 1) - 1
    if picture.mode.startswith("I;") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        return 2**16 - 1
    if picture.mode == "F" and brightest <= 2:
        return 1
    whites = [255, 2**16 - 1, *([] if picture.mode == "F" else [2**31 - 1, 2**32 - 1])]
    white = next((white for white in whites if brightest <= white), None)
    if white is None:
        raise ValueError(f"its brightest value is {brightest:g}, floats may go to 1, 255 or 65535")
    return 2**32 - 1 if white > 2**16 and _is_unsigned(tags) else white


def _on_white(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Bring a picture to RGB in sRGB, on white where it is transparent."""
    picture = picture.convert("LA") if picture.mode == "La" else picture
    colours = _in_srgb(picture, profile)
    if not picture.has_transparency_data:
        return colours
    colours.putalpha(picture.convert("RGBA").getchannel("A"))
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to RGB by the profile, or as if it were sRGB where it has none that is readable and fits."""
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile or b""))
        mode = _PROFILED[getattr(source.profile, "xcolor_space", "").strip()]
        fits = {"RGB": picture.mode != "CMYK", "L": picture.mode in ("1", "L", "LA")}
        if not fits.get(mode, picture.mode == mode):
            return picture.convert("RGB")
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture.convert(mode), source, target, outputMode="RGB")
        return converted or picture.convert("RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, KeyError, TypeError):
        return picture.convert("RGB")


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in _NOT_DECODED]


@functools.cache
def _suffixes() -> set[str]:
    known = {*_formats(), "MPO"}  # which the reader of JPEG opens
    return {suffix for suffix, name in Image.registered_extensions().items() if name in known}


def _in_order(file: Path) -> tuple[list[str | int], str]:
    """Order by name, 2 before 10, and 01 before 1."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], file.name
