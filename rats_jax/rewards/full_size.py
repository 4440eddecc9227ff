"""The published architectures as functions and shapes, without weights: for compilers and for checks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rats_jax.networks.blip import ImageTower
from rats_jax.networks.clip import IMAGE_TOWER, init_clip, make_clip
from rats_jax.rewards.aesthetic import make_aesthetic_fn
from rats_jax.rewards.clipscore import make_clipscore_fn
from rats_jax.rewards.hpsv2 import make_hpsv2_fn
from rats_jax.rewards.imagereward import MAX_LENGTH, init_towers, make_imagereward_fn, make_text_tower
from rats_jax.rewards.pickscore import make_pickscore_fn
from rats_jax.types import Params, PromptInputs, RewardFn
from rats_jax.weights.folder import abstract_params
from rats_jax.weights.open_clip import VIT_H_14, VIT_L_14, to_transformers_config

FullSize = tuple[RewardFn, Params, PromptInputs]
"""A reward function with the shapes and dtypes of its weights and prompt inputs."""


def _dual_encoder(
    config: Mapping[str, Any], make_reward_fn: Callable[[Any], RewardFn], batch_size: int, *, dtype: Any
) -> FullSize:
    module = make_clip(to_transformers_config(config, source="published"), dtype=dtype)
    params = {name: abstract_params(init_clip, module)[name] for name in IMAGE_TOWER}
    return (
        make_reward_fn(module),
        params,
        jax.ShapeDtypeStruct((batch_size, config["embed_dim"]), jnp.float32),
    )


def _aesthetic(batch_size: int, *, dtype: Any) -> FullSize:
    reward_fn, tower, _ = _dual_encoder(VIT_L_14, make_aesthetic_fn, batch_size, dtype=dtype)
    head = {
        "weight": jax.ShapeDtypeStruct((VIT_L_14["embed_dim"],), jnp.float32),
        "bias": jax.ShapeDtypeStruct((), jnp.float32),
    }
    return reward_fn, {"clip": tower, **head}, jax.ShapeDtypeStruct((batch_size, 0), jnp.float32)


# Source: BLIP's create_vit("large") and ImageReward's med_config.json.
_MED_CONFIG = {
    "vocab_size": 30524,
    "max_position_embeddings": 512,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
}


def _imagereward(batch_size: int, *, dtype: Any) -> FullSize:
    image_tower = ImageTower(width=1024, depth=24, num_heads=16, patch_size=16, dtype=dtype)
    text_tower = make_text_tower(_MED_CONFIG, source="published", dtype=dtype)
    params = jax.eval_shape(lambda: init_towers(image_tower, text_tower, 224, jax.random.key(0)))
    params |= {
        "weight": jax.ShapeDtypeStruct((text_tower.width,), jnp.float32),
        "bias": jax.ShapeDtypeStruct((), jnp.float32),
    }
    prompt = {
        "input_ids": jax.ShapeDtypeStruct((batch_size, MAX_LENGTH), jnp.int32),
        "mask": jax.ShapeDtypeStruct((batch_size, MAX_LENGTH), jnp.bool),
    }
    return make_imagereward_fn(image_tower, text_tower, 224), params, prompt


FULL_SIZE: Mapping[str, Callable[..., FullSize]] = {
    "aesthetic": _aesthetic,
    "clipscore": functools.partial(_dual_encoder, VIT_L_14, make_clipscore_fn),
    "hpsv2.0": functools.partial(_dual_encoder, VIT_H_14, make_hpsv2_fn),
    "hpsv2.1": functools.partial(_dual_encoder, VIT_H_14, make_hpsv2_fn),
    "imagereward": _imagereward,
    "pickscore": functools.partial(_dual_encoder, VIT_H_14, make_pickscore_fn),
}
"""By the `kind` of a config: (batch size, *, dtype) -> reward and shapes."""
