"""CLIP's vision tower, a vision transformer that is read at its class token.

Source: transformers, models/clip/modeling_clip.py, CLIPVisionTransformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import normal

from rats_jax.fields import MOST_PIXELS, expect, integer
from rats_jax.networks.clip_encoder import CLIPEncoder, TowerConfig, make_norm, read_tower, tower_fields
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.types import Array

VISION_FIELDS = {
    **tower_fields("clip_vision_model", hidden_size=768, intermediate_size=3072, num_attention_heads=12),
    "num_channels": integer(3),
    "image_size": integer(224, most=MOST_PIXELS),
    "patch_size": integer(32),
}
"""Fields of the vision tower, with the defaults of transformers' CLIPVisionConfig."""


@dataclass(frozen=True)
class CLIPVisionConfig(TowerConfig):
    """Sizes of the vision tower.

    Attributes:
        projection_dim: of a tower that is published by itself, which is not built here.
        num_channels: of the pictures.
        image_size: S, height and width of the pictures.
        patch_size: height and width of a patch; pixels beyond the last whole patch are not read.
    """

    projection_dim: int
    num_channels: int
    image_size: int
    patch_size: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> CLIPVisionConfig:
        """Read a transformers config.json; ValueError 'name=value: expected ...'."""
        values = read_tower(config, VISION_FIELDS)
        side = values["image_size"]
        expect(values["patch_size"] <= side, "patch_size", values["patch_size"], f"<= image_size={side}")
        return cls(**values)


class _PatchEmbedding(nn.Module):
    """Linear map of square patches side by side: a convolution without a bias."""

    config: CLIPVisionConfig
    dtype: Any
    kernels: Kernels

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        side = self.config.patch_size
        shape = (side, side, self.config.num_channels, self.config.hidden_size)
        kernel = self.param("kernel", normal(), shape).astype(self.dtype)
        pixels = pixels.astype(self.dtype)
        patches = self.kernels.convolve(pixels, kernel, (side, side), ((0, 0), (0, 0)))
        return patches.reshape(patches.shape[0], -1, patches.shape[-1])


class CLIPVisionEmbeddings(nn.Module):
    """A class token and patches with their positions, added in the precision of the weights."""

    config: CLIPVisionConfig
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """[B, S, S, C] -> [B, 1 + patches, D]."""
        width = self.config.hidden_size
        class_token = self.param("class_embedding", normal(0.02), (width,))
        patches = _PatchEmbedding(self.config, self.dtype, self.kernels, name="patch_embedding")(pixels)
        class_tokens = jnp.broadcast_to(class_token, (pixels.shape[0], 1, width))
        hidden = jnp.concatenate([class_tokens, patches], axis=1)
        length = hidden.shape[1]
        positions = nn.Embed(length, width, embedding_init=normal(), name="position_embedding")
        return hidden + positions(jnp.arange(length))


class CLIPVisionTransformer(nn.Module):
    """The vision tower.

    Attributes:
        config: sizes.
        dtype: of matrix products and of what they give; norms and softmax are float32 inside.
        kernels: of the device.
    """

    config: CLIPVisionConfig
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """Encode pictures.

        Args:
            pixels: [B, S, S, C], normalised.

        Returns:
            The class token after the last layer and the norm behind it, [B, D] in `dtype`; differentiable in
            pixels.

        Raises:
            ValueError: pictures of another size.
        """
        chex.assert_rank(pixels, 4)
        side = self.config.image_size
        expected = (side, side, self.config.num_channels)
        if pixels.shape[1:] != expected:
            raise ValueError(f"pictures of {pixels.shape[1:]}: expected {expected}")
        hidden = CLIPVisionEmbeddings(self.config, self.dtype, self.kernels, name="embeddings")(pixels)
        hidden = make_norm(self.config, self.dtype, "pre_layrnorm")(hidden)  # spelt as in every file
        hidden, _ = CLIPEncoder(self.config, self.dtype, self.kernels, name="encoder")(hidden)
        return make_norm(self.config, self.dtype, "post_layernorm")(hidden[:, 0])
