"""HPSv2.0 and HPSv2.1: cos(text, image) of a CLIP ViT-H/14 trained on people's choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from rats_jax.errors import WeightsError
from rats_jax.networks.preprocess import pad_to_square
from rats_jax.rewards.base import Reward
from rats_jax.rewards.dual_encoder import describe_dual_encoder, load_dual_encoder, make_dual_encoder_fn
from rats_jax.types import RewardFn, RewardModel
from rats_jax.weights.open_clip import VIT_H_14

PUBLISHED = "xswu/HPSv2"
FILE_2_0, FILE_2_1 = "HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt"


def load_hpsv2_0(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load HPSv2.0: `HPS_v2_compressed.pt`; all else as in `load_hpsv2_1`."""
    return _load(path, FILE_2_0, dtype=dtype)


def load_hpsv2_1(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load HPSv2.1: `HPS_v2.1_compressed.pt`, open_clip's names under "state_dict".

    R = cos(text, image), about 0.15 to 0.35. Scores of versions 2.0 and 2.1 cannot be compared.

    Args:
        path: folder, the file itself, or hub id; empty for the published weights. A CLIP of other sizes has
            its open_clip_config.json beside the weights.
        dtype: compute dtype of the towers; norms and dot products stay float32.

    Returns:
        The reward; its prompt inputs are text embeddings [B, D] float32.

    Raises:
        WeightsError: files are missing, or weights are missing, extra or mis-shaped.

    Source:
        Wu et al., Human Preference Score v2, arXiv 2306.09341; tgxs002/HPSv2, hpsv2/img_score.py.
    """
    return _load(path, FILE_2_1, dtype=dtype)


def make_hpsv2_fn(module: Any) -> RewardFn:
    """Compose the reward of a CLIP module; prompt inputs are text embeddings [B, D] float32."""
    return make_dual_encoder_fn(module, preprocess=pad_to_square, score=lambda cosine, _: cosine)


def _load(path: str, file: str, *, dtype: Any) -> RewardModel:
    if Path(path).name in {FILE_2_0, FILE_2_1} - {file}:
        raise WeightsError(f"{path!r} is the other version of HPSv2, expected {file!r}")
    return load_dual_encoder(
        path or PUBLISHED, make_hpsv2_fn, dtype=dtype, weights=(file,), default_config=VIT_H_14
    )


def describe_hpsv2(*, dtype: Any) -> RewardModel:
    """Describe both versions of HPSv2 as published by shapes alone, see `Reward.describe`."""
    return describe_dual_encoder(VIT_H_14, make_hpsv2_fn, dtype=dtype)


HPSV2_0 = Reward(load_hpsv2_0, describe_hpsv2)
HPSV2_1 = Reward(load_hpsv2_1, describe_hpsv2)
