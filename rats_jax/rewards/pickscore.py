"""PickScore: exp(logit_scale) * cos(text, image) of a CLIP trained on people's choices."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rats_jax.networks.preprocess import crop_to_square
from rats_jax.rewards.base import Reward
from rats_jax.rewards.dual_encoder import describe_dual_encoder, load_dual_encoder, make_dual_encoder_fn
from rats_jax.types import RewardFn, RewardModel
from rats_jax.weights.find import TRANSFORMERS_WEIGHTS
from rats_jax.weights.open_clip import VIT_H_14

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
    return load_dual_encoder(path or PUBLISHED, make_pickscore_fn, dtype=dtype, weights=TRANSFORMERS_WEIGHTS)


def make_pickscore_fn(module: Any) -> RewardFn:
    """Compose the reward of a CLIP module; prompt inputs are text embeddings [B, D] float32."""
    return make_dual_encoder_fn(
        module,
        preprocess=crop_to_square,
        score=lambda cosine, logit_scale: jnp.exp(logit_scale) * cosine,
    )


def describe_pickscore(*, dtype: Any) -> RewardModel:
    """Describe PickScore as published by shapes alone, see `Reward.describe`."""
    return describe_dual_encoder(VIT_H_14, make_pickscore_fn, dtype=dtype)


PICKSCORE = Reward(load_pickscore, describe_pickscore)
