"""Guards: plain statistics of pictures that drift when a student learns to please its reward only.

A reward can be raised by over-saturation, by texture, by one picture for every seed. None of these numbers is
good or bad by itself; what counts is how far the student's leave the teacher's.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.types import Array

_LUMA = (0.299, 0.587, 0.114)


def saturation(images: Array) -> Array:
    """Measure how far colours are from grey.

    S = (max - min) / max over the three channels of a pixel, 0 for black, as in HSV; the mean over pixels.

    Args:
        images: [B, H, W, 3] in [0, 1].

    Returns:
        [B] float32 in [0, 1].

    Source: Smith, Color Gamut Transform Pairs, SIGGRAPH 1978.
    """
    chex.assert_shape(images, (None, None, None, 3))
    high, low = jnp.max(images, axis=-1), jnp.min(images, axis=-1)
    per_pixel = jnp.where(high > 0.0, (high - low) / jnp.where(high > 0.0, high, 1.0), 0.0)
    return jnp.mean(per_pixel, axis=(1, 2))


def colourfulness(images: Array) -> Array:
    """Measure the spread and the strength of opponent colours.

    With rg = R - G and yb = (R + G) / 2 - B: sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2).

    Args:
        images: [B, H, W, 3] in [0, 1].

    Returns:
        [B] float32; multiply by 255 for the units of the source, where 0 is grey and 109 extreme.

    Source: Hasler and Suesstrunk, Measuring Colourfulness in Natural Images, SPIE 5007, 2003, section 7.
    """
    chex.assert_shape(images, (None, None, None, 3))
    red, green, blue = jnp.moveaxis(images, -1, 0)
    opponents = jnp.stack([red - green, (red + green) / 2 - blue])
    spread = jnp.sqrt(jnp.sum(jnp.var(opponents, axis=(2, 3)), axis=0))
    strength = jnp.sqrt(jnp.sum(jnp.square(jnp.mean(opponents, axis=(2, 3))), axis=0))
    return spread + 0.3 * strength


def edge_density(images: Array) -> Array:
    """Measure how much detail pictures have: the mean length of the luma's gradient.

    Central differences of 0.299 R + 0.587 G + 0.114 B between neighbours, over the pixels that have
    all four.

    Args:
        images: [B, H, W, 3] in [0, 1], H and W at least 3.

    Returns:
        [B] float32, per pixel.
    """
    chex.assert_shape(images, (None, None, None, 3))
    luma = images @ jnp.asarray(_LUMA)
    down = (luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]) / 2
    right = (luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2]) / 2
    return jnp.mean(jnp.sqrt(jnp.square(down) + jnp.square(right)), axis=(1, 2))


def motion(videos: Array) -> Array:
    """Measure how much a video moves: the mean absolute difference of neighbouring frames.

    A reward of frames is silent about motion, and a video that stands still may please it most.

    Args:
        videos: [B, T, H, W, 3] in [0, 1], T at least 2.

    Returns:
        [B] float32 in [0, 1]; 0 if nothing moves.
    """
    chex.assert_shape(videos, (None, None, None, None, 3))
    if videos.shape[1] < 2:
        raise ValueError(f"videos has {videos.shape[1]} frames, expected at least 2")
    return jnp.mean(jnp.abs(videos[:, 1:] - videos[:, :-1]), axis=(1, 2, 3, 4))


_MOTION = jax.jit(motion)


def measure_motion(images: np.ndarray) -> np.ndarray | None:
    """Measure how much each video moves, one after another, so that a device holds one.

    Args:
        images: [N, T, H, W, 3] in [0, 1], or pictures [N, H, W, 3].

    Returns:
        [N] float32 as of `motion`; None of pictures and of videos of one frame.
    """
    if images.ndim != 5 or images.shape[1] < 2:
        return None
    return np.concatenate([np.asarray(_MOTION(video[None])) for video in images])


def diversity(images: Array) -> Array:
    """Measure how much the pictures of one prompt differ from seed to seed.

    The root mean square difference of two pictures, averaged over all pairs of different seeds.

    Args:
        images: [P, S, H, W, 3] in [0, 1]: P prompts, S seeds of each, at least 2.

    Returns:
        [P] float32 in [0, 1]; 0 if the seed no longer matters.
    """
    chex.assert_rank(images, 5)
    num_seeds = images.shape[1]
    if num_seeds < 2:
        raise ValueError(f"images has {num_seeds} seeds of each prompt, expected at least 2")
    difference = images[:, :, None] - images[:, None]
    distance = jnp.sqrt(jnp.mean(jnp.square(difference), axis=(3, 4, 5)))
    return jnp.sum(distance, axis=(1, 2)) / (num_seeds * (num_seeds - 1))


PICTURE_GUARDS = {"saturation": saturation, "colourfulness": colourfulness, "edge_density": edge_density}
"""Guards of single pictures, [B, H, W, 3] -> [B], by the name under which they are logged."""
