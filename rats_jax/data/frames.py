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


def middle_frames(length: int, count: int) -> np.ndarray:
    """Choose the middle of each of n parts of a video that are as long as each other; of two, the earlier.

    Args:
        length: T, frames of the video; if there are fewer than n, the last one fills up.
        count: n.

    Returns:
        [n] ascending positions.

    Source: Vchitect/VBench, vbench/utils.py, get_frame_indices with sample="middle".
    """
    parts = min(count, length)
    edges = np.linspace(0, length, parts + 1).astype(np.int32)
    middles = (edges[:-1] + edges[1:] - 1) // 2
    return np.pad(middles, (0, count - parts), mode="edge")
