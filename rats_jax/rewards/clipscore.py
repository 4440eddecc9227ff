"""CLIPScore: 100 * max(cos(text, image), 0) of any CLIP."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rats_jax.networks.preprocess import crop_to_square
from rats_jax.rewards.base import Reward
from rats_jax.rewards.dual_encoder import describe_dual_encoder, load_dual_encoder, make_dual_encoder_fn
from rats_jax.types import RewardFn, RewardModel
from rats_jax.weights.open_clip import VIT_L_14

PUBLISHED = "openai/clip-vit-large-patch14"


def load_clipscore(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load any CLIP of two plain transformers, in transformers' or open_clip's format.

    R = 100 * max(cos(text, image), 0), the scale of torchmetrics; the source's own is 2.5 * max(cos, 0).
    Below 0 there is no gradient, as in the definition; captions and their pictures lie at about 15 to 35.

    Args:
        path: folder, weights file or hub id; empty for OpenAI's ViT-L/14, the default of torchmetrics.
        dtype: compute dtype of the towers; norms and dot products stay float32.

    Returns:
        The reward; its prompt inputs are text embeddings [B, D] float32.

    Raises:
        WeightsError: files are missing, or weights are missing, extra or mis-shaped.

    Source:
        Hessel et al., CLIPScore, arXiv 2104.08718, section 3; torchmetrics, CLIPScore (the scale).
    """
    return load_dual_encoder(path or PUBLISHED, make_clipscore_fn, dtype=dtype)


def make_clipscore_fn(module: Any) -> RewardFn:
    """Compose the reward of a CLIP module; prompt inputs are text embeddings [B, D] float32."""
    return make_dual_encoder_fn(
        module, preprocess=crop_to_square, score=lambda cosine, _: 100.0 * jnp.maximum(cosine, 0.0)
    )


def describe_clipscore(*, dtype: Any) -> RewardModel:
    """Describe CLIPScore with OpenAI's ViT-L/14 as published by shapes alone, see `Reward.describe`."""
    return describe_dual_encoder(VIT_L_14, make_clipscore_fn, dtype=dtype)


CLIPSCORE = Reward(load_clipscore, describe_clipscore)
