"""What the rewards on a CLIP share: cos(text, image) of one tower each, scored in their own ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from rats_jax.models.clip import embed_images
from rats_jax.models.clip_folder import load_clip
from rats_jax.models.preprocess import PreprocessFn
from rats_jax.types import Array, Params, RewardModel


def load_dual_encoder(
    path: str, *, dtype: Any, preprocess: PreprocessFn, score: Callable[[Array, Array], Array], **files: Any
) -> RewardModel:
    """Load a CLIP as a reward; its prompt inputs are text embeddings [B, D] float32, one row per prompt.

    The text tower runs once per prompt, before training: its weights are no part of the reward's.

    Args:
        path: folder, weights file or hub id.
        dtype: compute dtype of the towers; norms, dot products and the logit scale stay float32.
        preprocess: makes pictures square.
        score: (cosine [B], logit_scale []) -> [B].
        files: what `load_clip` needs to know of the format.

    Returns:
        The reward.

    Raises:
        WeightsError: files are missing, or weights are missing, extra or mis-shaped.
    """
    clip = load_clip(path, dtype=dtype, **files)
    assert clip.embed_prompts is not None

    def reward_fn(params: Params, images: Array, prompt: Array) -> Array:
        embeds = embed_images(clip.module, params, images, preprocess=preprocess)
        cosine = jnp.sum(embeds * prompt, axis=-1)
        return score(cosine, params["logit_scale"].astype(jnp.float32))

    return RewardModel(reward_fn, clip.image_tower, clip.embed_prompts)
