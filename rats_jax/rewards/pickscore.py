"""PickScore: exp(logit_scale) * cos(text, image) of a CLIP trained on people's choices."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rats_jax.models.clip_folder import TRANSFORMERS_WEIGHTS
from rats_jax.models.preprocess import crop_to_square
from rats_jax.rewards.dual_encoder import load_dual_encoder
from rats_jax.types import RewardModel

PUBLISHED = "yuvalkirstain/PickScore_v1"


def load_pickscore(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load PickScore v1, or another dual encoder in its format: a transformers CLIPModel with its tokenizer.

    R = exp(logit_scale) * cos(text, image), about 16 to 26 for the published weights.

    Args:
        path: folder or hub id; empty for the published weights.
        dtype: compute dtype of the towers; norms, dot products and the logit scale stay float32.

    Returns:
        The reward; its prompt inputs are text embeddings [B, D] float32.

    Raises:
        WeightsError: files are missing, or weights are missing, extra or mis-shaped.

    Source:
        Kirstain et al., Pick-a-Pic, arXiv 2305.01569, section 4.
    """
    return load_dual_encoder(
        path or PUBLISHED,
        dtype=dtype,
        preprocess=crop_to_square,
        score=lambda cosine, logit_scale: jnp.exp(logit_scale) * cosine,
        weights=TRANSFORMERS_WEIGHTS,
    )
