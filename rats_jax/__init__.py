"""Reward-Aware Trajectory Shaping (RATS) of few-step generators, in JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rats_jax.errors import known_keywords
from rats_jax.parallel.environment import leave_out_wrong_sums

if TYPE_CHECKING:
    from rats_jax.student.model import TextToImage


__version__ = "0.1.0"

leave_out_wrong_sums()


@known_keywords
def load(
    path: str,
    *,
    step: int | None = None,
    dtype: str = "float32",
    height: int = 0,
    width: int = 0,
    max_sequence_length: int = 0,
    num_frames: int = 0,
    flow_shift: float = 0.0,
    negative_prompt: str = "",
) -> TextToImage:
    """Load what draws pictures or videos: see `rats_jax.student.load`, which this imports when it is called.

    images = rats_jax.load(path)(["a black cat"], num_steps=4, seed=0)  # [B, H, W, 3] in [0, 1]
    """
    from rats_jax.student.load import load as load_model

    return load_model(
        path,
        step=step,
        dtype=dtype,
        height=height,
        width=width,
        max_sequence_length=max_sequence_length,
        num_frames=num_frames,
        flow_shift=flow_shift,
        negative_prompt=negative_prompt,
    )
