"""PickScore's form of reward on any CLIP: exp(logit_scale) * cos(text, image)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rats_jax.models.clip import embed_images, embed_text, init_clip, make_clip
from rats_jax.models.convert import load_safetensors
from rats_jax.models.pipeline import describe, load_tokenizer, read_json, tokenize
from rats_jax.types import Array, Params, RewardModel


def load_clip_reward(folder: str | Path, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load a dual encoder in PickScore's format: a transformers CLIPModel folder with its tokenizer.

    Args:
        folder: holds config.json, model.safetensors and the tokenizer's vocab.json and merges.txt.
        dtype: compute dtype of the towers; norms, dot products and the logit scale stay float32.

    Returns:
        The reward exp(logit_scale) * cos(text, image); its prompt inputs are token ids [B, L] int32.

    Raises:
        WeightsError: the folder lacks a file, or weights are missing, extra or mis-shaped.

    Source:
        Kirstain et al., Pick-a-Pic (PickScore), arXiv 2305.01569, section 4.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    module, abstract = describe(folder, lambda: make_clip(config, dtype=dtype), init_clip)
    params = load_safetensors(folder / "model.safetensors", abstract)
    tokenizer = load_tokenizer(folder, module.config.text_config)

    def reward_fn(params: Params, images: Array, prompt: Array) -> Array:
        cosine = jnp.sum(embed_text(module, params, prompt) * embed_images(module, params, images), axis=-1)
        return jnp.exp(params["logit_scale"].astype(jnp.float32)) * cosine

    def prepare(prompts: list[str]) -> np.ndarray:
        return tokenize(tokenizer, prompts)

    return RewardModel(reward_fn, params, prepare)
