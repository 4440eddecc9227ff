"""Frames of videos."""

from __future__ import annotations

import numpy as np


def choose_frames(length: int, count: int) -> np.ndarray:
    """Choose frames at even distances, the first and the last among them; of one, the first.

    Args:
        length: T, frames of the video.
        count: n from 1 to T, or 0 for all.

    Returns:
        [n] ascending positions.
    """
    return np.linspace(0, length - 1, count or length).round().astype(np.int32)
