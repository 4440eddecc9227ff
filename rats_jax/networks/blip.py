"""BLIP's image tower and its text tower that reads the picture, as flax.linen modules.

Parameters carry the names of the original's state dict, dots included, so that `torch_name` of their path is
the name in the file.

Source: Li et al., BLIP, arXiv 2201.12086; salesforce/BLIP, models/vit.py and models/med.py.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from rats_jax.networks.attention import attend, join_heads, split_heads
from rats_jax.networks.layers import gelu
from rats_jax.networks.stack import run_layers
from rats_jax.types import Array

IMAGE_NORM_EPS = 1e-6


class ImageTower(nn.Module):
    """A vision transformer with a class token; its output keeps all tokens.

    Attributes:
        width: of the tokens.
        depth: number of blocks.
        num_heads: of the attention.
        patch_size: pixels.
        dtype: compute dtype; norms and softmax are float32 inside.
    """

    width: int
    depth: int
    num_heads: int
    patch_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """Turn normalised pixels [B, H, W, 3] into tokens [B, 1 + patches, width]."""
        patch = (self.patch_size, self.patch_size)
        patches = nn.Conv(
            self.width, patch, strides=patch, padding="VALID", dtype=self.dtype, name="patch_embed.proj"
        )(pixels)
        x = patches.reshape(pixels.shape[0], -1, self.width)
        class_token = self.param("cls_token", nn.initializers.zeros, (1, 1, self.width))
        positions = self.param("pos_embed", nn.initializers.zeros, (1, x.shape[1] + 1, self.width))
        class_token = jnp.broadcast_to(class_token, (x.shape[0], 1, self.width)).astype(self.dtype)
        x = jnp.concatenate([class_token, x], axis=1) + positions.astype(self.dtype)
        x = run_layers(_ImageBlock, "blocks", self.depth, x, num_heads=self.num_heads, dtype=self.dtype)
        return nn.LayerNorm(IMAGE_NORM_EPS, dtype=self.dtype, name="norm")(x)


class _ImageBlock(nn.Module):
    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, None]:
        width = x.shape[-1]
        hidden = nn.LayerNorm(IMAGE_NORM_EPS, dtype=self.dtype, name="norm1")(x)
        query, key, value = jnp.split(
            nn.Dense(3 * width, dtype=self.dtype, name="attn.qkv")(hidden), 3, axis=-1
        )
        hidden = _attend(query, key, value, self.num_heads)
        x = x + nn.Dense(width, dtype=self.dtype, name="attn.proj")(hidden)
        hidden = nn.LayerNorm(IMAGE_NORM_EPS, dtype=self.dtype, name="norm2")(x)
        hidden = nn.Dense(4 * width, dtype=self.dtype, name="mlp.fc1")(hidden)
        hidden = gelu(hidden)
        return x + nn.Dense(width, dtype=self.dtype, name="mlp.fc2")(hidden), None


class TextTower(nn.Module):
    """BERT whose every layer attends to the picture too.

    Attributes:
        vocab_size, max_positions: of the embeddings.
        width: of the tokens.
        depth: number of layers.
        num_heads: of all attentions.
        hidden_width: of the layers in between.
        norm_eps: of all norms.
        dtype: compute dtype; norms and softmax are float32 inside.
    """

    vocab_size: int
    max_positions: int
    width: int
    depth: int
    num_heads: int
    hidden_width: int
    norm_eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, input_ids: Array, mask: Array, image_tokens: Array) -> Array:
        """Read prompts beside their pictures.

        Args:
            input_ids: [B, L] int32.
            mask: [B, L] bool, true for tokens that are no padding.
            image_tokens: [B, N, any width].

        Returns:
            [B, L, width]; rows of padding mean nothing.
        """
        words = nn.Embed(self.vocab_size, self.width, dtype=self.dtype, name="embeddings.word_embeddings")(
            input_ids
        )
        positions = nn.Embed(
            self.max_positions, self.width, dtype=self.dtype, name="embeddings.position_embeddings"
        )(jnp.arange(input_ids.shape[1]))
        x = nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="embeddings.LayerNorm")(
            words + positions[None]
        )
        image_tokens = image_tokens.astype(self.dtype)
        return run_layers(
            _TextLayer,
            "encoder.layer",
            self.depth,
            x,
            mask[:, None, None, :],
            image_tokens,
            num_heads=self.num_heads,
            hidden_width=self.hidden_width,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
        )


class _TextLayer(nn.Module):
    num_heads: int
    hidden_width: int
    norm_eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, mask: Array, image_tokens: Array) -> tuple[Array, None]:
        x = self._attention("attention", x, x, mask)
        x = self._attention("crossattention", x, image_tokens, None)
        hidden = self._dense("intermediate.dense", self.hidden_width)(x)
        hidden = self._dense("output.dense", x.shape[-1])(gelu(hidden))
        return self._norm("output.LayerNorm")(hidden + x), None

    def _attention(self, name: str, x: Array, context: Array, mask: Array | None) -> Array:
        width = x.shape[-1]
        query = self._dense(f"{name}.self.query", width)(x)
        key, value = (self._dense(f"{name}.self.{part}", width)(context) for part in ("key", "value"))
        hidden = self._dense(f"{name}.output.dense", width)(_attend(query, key, value, self.num_heads, mask))
        return self._norm(f"{name}.output.LayerNorm")(hidden + x)

    def _dense(self, name: str, width: int) -> nn.Dense:
        return nn.Dense(width, dtype=self.dtype, name=name)

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(self.norm_eps, dtype=self.dtype, name=name)


def _attend(query: Array, key: Array, value: Array, num_heads: int, mask: Array | None = None) -> Array:
    """Attend from [B, L, D] to [B, M, D] in heads; mask [B, 1, 1, M] is false where nothing may be read."""
    query, key, value = (split_heads(x, num_heads) for x in (query, key, value))
    return join_heads(attend(query, key, value, mask))
