"""Preprocessing of pictures for image towers: resized, cropped or padded, normalised, differentiably.

The resize is antialiased bicubic, that of PIL and of torchvision, without rounding to 8 bits and without
clipping the few values that overshoot.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rats_jax.types import Array

PreprocessFn = Callable[[Array, int], Array]
"""(images [B, H, W, 3] in [0, 1], side) -> [B, side, side, 3] float32."""

# Source: openai/CLIP, the normalisation of every published CLIP, and of BLIP.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# A picture this many times as long as wide is cut to its middle before it is magnified.
_STRIP = 16


def crop_to_square(images: Array, side: int) -> Array:
    """Resize the shorter edge to `side` and cut the middle out of the longer one, as CLIP's processor does.

    Args:
        images: [B, H, W, 3] in [0, 1].
        side: pixels.

    Returns:
        [B, side, side, 3] float32.

    Source: transformers, CLIPImageProcessor, which rounds half a pixel downwards.
    """
    return _crop(images, side, lambda margin: margin // 2)


def crop_to_square_half_even(images: Array, side: int) -> Array:
    """Resize and crop as `crop_to_square`, half a pixel rounded to even as torchvision and OpenAI do."""
    return _crop(images, side, lambda margin: round(margin / 2))


def pad_to_square(images: Array, side: int) -> Array:
    """Resize the longer edge to `side` and centre the picture on black, as HPSv2 does.

    Args:
        images: [B, H, W, 3] in [0, 1].
        side: pixels.

    Returns:
        [B, side, side, 3] float32.

    Source: tgxs002/HPSv2, hpsv2/src/open_clip/transform.py, ResizeMaxSize.
    """
    _, height, width, _ = images.shape
    scale = side / max(height, width)
    images = _resize(images, max(1, round(height * scale)), max(1, round(width * scale)))
    rows, columns = side - images.shape[1], side - images.shape[2]
    margins = (0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)
    return jnp.pad(images, margins)


def normalise(images: Array) -> Array:
    """Move and scale the colours of [..., 3] in [0, 1] to mean 0 and deviation 1 of CLIP's training set."""
    return (images - jnp.asarray(MEAN)) / jnp.asarray(STD)


def _resize(images: Array, height: int, width: int) -> Array:
    images = images.astype(jnp.float32)
    if images.shape[1:3] == (height, width):
        return images
    # Without antialiasing it would be 0.0245 away from PIL on photographs instead of 0.0011.
    shape = (images.shape[0], height, width, images.shape[3])
    return jax.image.resize(images, shape, "cubic", antialias=True)


def _crop(images: Array, side: int, offset: Callable[[int], int]) -> Array:
    _, height, width, _ = images.shape
    short = min(height, width)
    rows, columns = side * height // short, side * width // short
    top, left = offset(rows - side), offset(columns - side)
    if side > short and max(rows, columns) > _STRIP * side:
        return _resize_middle(images, side, (rows, columns), (top, left))
    return _resize(images, rows, columns)[:, top : top + side, left : left + side]


def _resize_middle(images: Array, side: int, resized: tuple[int, int], corner: tuple[int, int]) -> Array:
    """Magnify the middle square of a strip alone: the whole strip would be many times larger.

    Args:
        images: [B, H, W, 3], to be magnified.
        side: pixels.
        resized: rows and columns of the whole strip.
        corner: row and column in `resized` at which the square begins.

    Returns:
        [B, side, side, 3] float32.
    """
    images = images.astype(jnp.float32)
    scales = [after / before for after, before in zip(resized, images.shape[1:3], strict=True)]
    shifts = []
    for axis, (scale, start) in enumerate(zip(scales, corner, strict=True), start=1):
        # The cubic kernel reaches two pixels to each side.
        first = max(0, math.floor(start / scale) - 3)
        last = min(images.shape[axis], math.ceil((start + side) / scale) + 3)
        images = jax.lax.slice_in_dim(images, first, last, axis=axis)
        shifts.append(first * scale - start)
    shape = (images.shape[0], side, side, images.shape[3])
    return jax.image.scale_and_translate(
        images, shape, (1, 2), jnp.asarray(scales), jnp.asarray(shifts), "cubic", antialias=True
    )
