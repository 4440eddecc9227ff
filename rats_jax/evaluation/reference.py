"""Real pictures of the prompts, and how far from them the pictures of a model are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rats_jax.errors import ConfigError


class Reference(NamedTuple):
    """Real pictures: images [M, H, W, 3] float32 in [0, 1], and the caption of each."""

    images: np.ndarray
    captions: list[str]


def load_reference(path: Any, prompts: Sequence[str], image_shape: tuple[int, ...]) -> Reference:
    """Read the real pictures of the prompts.

    Args:
        path: .npz with `images` [M, H, W, 3] uint8 and `captions` [M].
        prompts: those that must have a picture.
        image_shape: (H, W, 3) of the model's pictures.

    Returns:
        The reference.

    Raises:
        ConfigError: the file is no such file, or a prompt has no picture in it.
    """
    try:
        with np.load(path) as archive:
            images, captions = archive["images"], [str(c) for c in archive["captions"]]
    except Exception as error:  # numpy, zipfile and zlib raise all kinds where a file is damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"reference={str(path)!r}: expected an .npz with images and captions ({reason})"
        ) from None
    if images.dtype != np.uint8:
        raise ConfigError(f"reference={str(path)!r}: its images are {images.dtype}, expected uint8")
    missing = sorted(set(prompts) - set(captions))
    if missing:
        raise ConfigError(
            f"reference={str(path)!r}: has no picture for {len(missing)} prompts, e.g. {missing[0]!r}"
        )
    if images.shape != (len(captions), *image_shape):
        expected = (len(captions), *image_shape)
        raise ConfigError(f"reference={str(path)!r}: its images are {images.shape}, expected {expected}")
    return Reference(images.astype(np.float32) / 255.0, captions)


def reference_distance(
    images: np.ndarray, prompts: list[str], reference: Reference
) -> tuple[np.ndarray, np.ndarray]:
    """Measure how far pictures are from real ones.

    Args:
        images: [N, H, W, 3] float32 in [0, 1].
        prompts: N texts.
        reference: the real pictures.

    Returns:
        Mean squared error [N] to the prompt's own picture and to the nearest of all pictures.
    """
    index = {caption: i for i, caption in enumerate(reference.captions)}
    real = reference.images.reshape(len(reference.captions), -1)
    flat = images.reshape(len(images), -1)
    own = np.mean(np.square(flat - real[[index[p] for p in prompts]]), axis=1)
    nearest = np.array([np.mean(np.square(picture - real), axis=1).min() for picture in flat])
    return own, nearest
