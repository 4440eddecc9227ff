"""CLIP dual encoders: images and texts on one unit sphere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from transformers import CLIPConfig
from transformers.models.clip.modeling_flax_clip import FlaxCLIPModule

from rats_jax.networks.preprocess import PreprocessFn, crop_to_square, normalise
from rats_jax.types import Array, Key, Params

IMAGE_TOWER = ("vision_model", "visual_projection", "logit_scale")
"""The top-level names of the weights that `embed_images` reads; the module asks for logit_scale always."""
TEXT_TOWER = ("text_model", "text_projection", "logit_scale")
"""The top-level names of the weights that `embed_text` reads."""


def make_clip(config: dict[str, Any], *, dtype: Any = jnp.float32) -> Any:
    """Build the linen module of a CLIP dual encoder from a transformers `config.json` (as a dict)."""
    return FlaxCLIPModule(CLIPConfig(**config), dtype=dtype)


def init_clip(module: Any, key: Key) -> Params:
    """Initialise dual-encoder weights with `key`; float32."""
    text, vision = module.config.text_config, module.config.vision_config
    ids = jnp.zeros((1, text.max_position_embeddings), jnp.int32)
    pixels = jnp.zeros((1, vision.image_size, vision.image_size, 3))
    return module.init(key, ids, pixels, jnp.ones_like(ids), jnp.zeros_like(ids))["params"]


def embed_images(
    module: Any, params: Params, images: Array, *, preprocess: PreprocessFn = crop_to_square
) -> Array:
    """Embed images on the unit sphere.

    Args:
        module: from `make_clip`.
        params: weights, of which those of IMAGE_TOWER are read.
        images: [B, H, W, 3] in [0, 1].
        preprocess: makes them square.

    Returns:
        [B, D] float32, of length 1; differentiable in images, also in those without any contrast.
    """
    pixels = normalise(preprocess(images, module.config.vision_config.image_size))

    def apply(module: Any, pixels: Array) -> Array:
        pooled = module.vision_model(pixel_values=pixels, deterministic=True)[1]
        return module.visual_projection(pooled)

    return _to_unit_length(module.apply({"params": params}, pixels, method=apply))


def embed_text(module: Any, params: Params, input_ids: Array) -> Array:
    """Embed token ids [B, L] on the unit sphere: [B, D] float32; reads the weights of TEXT_TOWER."""
    positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape)

    def apply(module: Any, ids: Array, mask: Array, positions: Array) -> Array:
        pooled = module.text_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, deterministic=True
        )[1]
        return module.text_projection(pooled)

    mask = jnp.ones_like(input_ids)  # the causal mask already hides what follows the end token
    return _to_unit_length(module.apply({"params": params}, input_ids, mask, positions, method=apply))


def _to_unit_length(x: Array) -> Array:
    """Scale to unit length in float32; unlike jnp.linalg.norm, the gradient at zero is finite."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
