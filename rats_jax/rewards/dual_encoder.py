"""What the rewards on a CLIP share: the cosine of one tower each, scored in their own ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rats_jax.networks.abstract import abstract_params
from rats_jax.networks.clip import IMAGE_TOWER, CLIPModel, embed_images, init_clip
from rats_jax.networks.preprocess import PreprocessFn
from rats_jax.types import Array, Key, Params, RewardFn, RewardModel
from rats_jax.weights.clip_folder import load_clip, make_embed_prompts
from rats_jax.weights.open_clip import to_transformers_config


def make_dual_encoder_fn(
    module: Any, *, preprocess: PreprocessFn, score: Callable[[Array, Array], Array]
) -> RewardFn:
    """Compose a reward of a CLIP module; its prompt inputs are text embeddings [B, D] float32 of length 1.

    Args:
        module: of a CLIP.
        preprocess: makes pictures square.
        score: (cosine [B], logit_scale []), both float32 -> [B].
    """

    def reward_fn(params: Params, images: Array, prompt: Array) -> Array:
        embeds = embed_images(module, params, images, preprocess=preprocess)
        cosine = jnp.sum(embeds * prompt, axis=-1)
        return score(cosine, params["logit_scale"].astype(jnp.float32))

    return reward_fn


def load_dual_encoder(
    path: str, make_reward_fn: Callable[[Any], RewardFn], *, dtype: Any, **files: Any
) -> RewardModel:
    """Load a CLIP as a reward.

    The text tower runs once per prompt, before training: its weights are no part of the reward's.

    Args:
        path: folder, weights file or hub id.
        make_reward_fn: CLIP module -> reward.
        dtype: compute dtype of the towers; norms, dot products and the logit scale stay float32.
        files: what `load_clip` needs to know of the format.

    Returns:
        The reward.

    Raises:
        WeightsError: files are missing, or weights are missing, extra or mis-shaped.
    """
    clip = load_clip(path, dtype=dtype, **files)
    image_tower = {name: clip.params[name] for name in IMAGE_TOWER}
    return RewardModel(make_reward_fn(clip.module), image_tower, make_embed_prompts(path, clip))


def describe_dual_encoder(
    config: Mapping[str, Any], make_reward_fn: Callable[[Any], RewardFn], *, dtype: Any
) -> RewardModel:
    """Describe a CLIP as a reward, by shapes alone.

    Args:
        config: open_clip's `model_cfg`.
        make_reward_fn: CLIP module -> reward.
        dtype: compute dtype of the towers.

    Returns:
        The reward with jax.ShapeDtypeStruct for the weights of the image tower and for prompt inputs.
    """
    module = CLIPModel.from_config(to_transformers_config(config, source="published"), dtype=dtype)
    return describe_towers(module, init_clip, make_reward_fn(module))


def describe_towers(module: Any, init: Callable[[Any, Key], Params], reward_fn: RewardFn) -> RewardModel:
    """Describe a reward that compares text embeddings with what the image tower of a CLIP sees.

    Args:
        module: a CLIP, of pictures or of videos.
        init: (module, key) -> its weights.
        reward_fn: of that module.

    Returns:
        The reward, as `describe_dual_encoder` gives it.
    """
    params, width = abstract_params(init, module), module.config.projection_dim
    return RewardModel(
        reward_fn,
        {name: params[name] for name in IMAGE_TOWER},
        lambda prompts: jax.ShapeDtypeStruct((len(prompts), width), jnp.float32),
    )
