"""Transformer of FLUX.1 [dev] and [schnell].

Source: diffusers, models/transformers/transformer_flux.py, FluxTransformer2DModel; Black Forest Labs, flux,
src/flux/model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from rats_jax.fields import Field, expect, flag, integer, listed, only, optional, read_fields
from rats_jax.networks.abstract import Network
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import gelu_tanh
from rats_jax.networks.mmdit import (
    Attention,
    FeedForward,
    Modulation,
    Rotary,
    TimeTextEmbedding,
    modulate,
    rotary_tables,
)
from rats_jax.networks.stack import stack
from rats_jax.types import Array, Key, Params

FIELDS: Mapping[str, Field] = {
    "patch_size": only(1),
    "in_channels": integer(64),
    "out_channels": optional(integer(64)),
    "num_layers": integer(19, most=1000),
    "num_single_layers": integer(38, most=1000),
    "attention_head_dim": integer(128),
    "num_attention_heads": integer(24),
    "joint_attention_dim": integer(4096),
    "pooled_projection_dim": integer(768),
    "guidance_embeds": flag(False),
    "axes_dims_rope": listed((16, 56, 56), integer(2)),
}
"""Arguments of diffusers' FluxTransformer2DModel."""


class FluxTransformerBlock(nn.Module):
    """Block in which picture and prompt have weights of their own.

    Attributes:
        num_heads, head_dim: of attention.
        dtype: of matrix products and their results.
        kernels: of the device.
    """

    num_heads: int
    head_dim: int
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(
        self, streams: tuple[Array, Array], embedding: Array, rotary: Rotary
    ) -> tuple[tuple[Array, Array], None]:
        """Refine the tokens of the picture [B, L, D] and of the prompt [B, M, D]."""
        hidden, context = streams
        shift, scale, gate, *mlp = Modulation(6, self.dtype, name="norm1")(embedding)
        c_shift, c_scale, c_gate, *c_mlp = Modulation(6, self.dtype, name="norm1_context")(embedding)
        read, c_read = Attention(
            self.num_heads,
            self.head_dim,
            text_first=True,
            dtype=self.dtype,
            kernels=self.kernels,
            name="attn",
        )(modulate(hidden, shift, scale), modulate(context, c_shift, c_scale), rotary)
        assert c_read is not None
        hidden, context = hidden + gate * read, context + c_gate * c_read

        def refine(tokens: Array, shift: Array, scale: Array, gate: Array, name: str) -> Array:
            return tokens + gate * FeedForward(self.dtype, name=name)(modulate(tokens, shift, scale))

        return (refine(hidden, *mlp, name="ff"), refine(context, *c_mlp, name="ff_context")), None


class FluxSingleTransformerBlock(nn.Module):
    """Block in which picture and prompt are one sequence, and attention and perceptron run side by side.

    Attributes:
        num_heads, head_dim, dtype, kernels: as of `FluxTransformerBlock`.
    """

    num_heads: int
    head_dim: int
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, tokens: Array, embedding: Array, rotary: Rotary) -> tuple[Array, None]:
        """Refine the tokens of prompt and picture [B, M + L, D]."""
        shift, scale, gate = Modulation(3, self.dtype, name="norm")(embedding)
        normed, width = modulate(tokens, shift, scale), tokens.shape[-1]
        read, _ = Attention(
            self.num_heads, self.head_dim, out=False, dtype=self.dtype, kernels=self.kernels, name="attn"
        )(normed, rotary=rotary)
        thought = gelu_tanh(nn.Dense(4 * width, dtype=self.dtype, name="proj_mlp")(normed))
        both = jnp.concatenate([read, thought], axis=-1)
        return tokens + gate * nn.Dense(width, dtype=self.dtype, name="proj_out")(both), None


class FluxTransformer2DModel(Network):
    """FLUX's transformer.

    Attributes:
        in_channels: features of a token of the picture, which it also predicts.
        num_layers, num_single_layers: of both kinds of blocks.
        attention_head_dim, num_attention_heads: of attention.
        joint_attention_dim: features of a token of the prompt.
        pooled_projection_dim: features of the pooled prompt.
        guidance_embeds: whether it is told a guidance scale: dev is, schnell is not.
        axes_dims_rope: features of a head that tell each axis of a position.
        dtype: of matrix products; norms, softmax and positions are float32.
        kernels: of the device.
    """

    in_channels: int
    num_layers: int
    num_single_layers: int
    attention_head_dim: int
    num_attention_heads: int
    joint_attention_dim: int
    pooled_projection_dim: int
    guidance_embeds: bool
    axes_dims_rope: tuple[int, ...]
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, dtype: Any = jnp.float32, kernels: Kernels = PLAIN
    ) -> FluxTransformer2DModel:
        """Build it from a diffusers config.json.

        Args:
            config: its content.
            dtype: compute dtype.
            kernels: of the device.

        Raises:
            ValueError: a field is not computed here: 'name=value: expected ...'.
        """
        values = read_fields(config, FIELDS)
        del values["patch_size"]
        channels, dims, head = values["in_channels"], values["axes_dims_rope"], values["attention_head_dim"]
        out = values.pop("out_channels")
        expect(out in (None, channels), "out_channels", out, f"null or in_channels={channels}")
        holds = len(dims) == 3 and sum(dims) == head and not any(dim % 2 for dim in dims)
        expect(holds, "axes_dims_rope", dims, f"three even numbers, together attention_head_dim={head}")
        return cls(**values, dtype=dtype, kernels=kernels)

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights."""
        ids = np.zeros((1, 3))
        return self.init(
            key,
            jnp.zeros((1, 1, self.in_channels)),
            jnp.zeros((1, 1, self.joint_attention_dim)),
            jnp.zeros((1, self.pooled_projection_dim)),
            jnp.zeros(1),
            jnp.zeros(1) if self.guidance_embeds else None,
            image_ids=ids,
            text_ids=ids,
        )["params"]

    @nn.compact
    def __call__(
        self,
        hidden: Array,
        context: Array,
        pooled: Array,
        timestep: Array,
        guidance: Array | None = None,
        *,
        image_ids: np.ndarray,
        text_ids: np.ndarray,
    ) -> Array:
        """Predict the velocity of noisy tokens.

        Args:
            hidden: [B, L, in_channels], of the picture.
            context: [B, M, joint_attention_dim], of the prompt.
            pooled: [B, pooled_projection_dim], of the prompt.
            timestep: [B] float32, sigma * 1000.
            guidance: [B] float32, the guidance scale * 1000; None where it is told none.
            image_ids, text_ids: [L, 3] and [M, 3], positions of the tokens, constants of the program.

        Returns:
            [B, L, in_channels] in `dtype`, differentiable in the weights and all arrays.

        Raises:
            ValueError: a guidance scale that it is not told, or none where it is.
        """
        chex.assert_rank([hidden, context, pooled, timestep], [3, 3, 2, 1])
        if (guidance is not None) != self.guidance_embeds:
            raise ValueError(f"guidance={guidance}: guidance_embeds is {self.guidance_embeds}")
        width = self.attention_head_dim * self.num_attention_heads
        layer = {
            "num_heads": self.num_attention_heads,
            "head_dim": self.attention_head_dim,
            "dtype": self.dtype,
            "kernels": self.kernels,
        }
        rotary = rotary_tables(np.concatenate([text_ids, image_ids]), self.axes_dims_rope)
        embedding = TimeTextEmbedding(width, self.dtype, name="time_text_embed")(timestep, pooled, guidance)
        hidden = nn.Dense(width, dtype=self.dtype, name="x_embedder")(hidden)
        context = nn.Dense(width, dtype=self.dtype, name="context_embedder")(context)
        blocks = stack(FluxTransformerBlock, "transformer_blocks", 0, self.num_layers, **layer)
        (hidden, context), _ = blocks((hidden, context), embedding, rotary)
        tokens = jnp.concatenate([context, hidden], axis=1)
        singles = stack(
            FluxSingleTransformerBlock, "single_transformer_blocks", 0, self.num_single_layers, **layer
        )
        tokens, _ = singles(tokens, embedding, rotary)
        scale, shift = Modulation(2, self.dtype, name="norm_out")(embedding)
        normed = modulate(tokens[:, context.shape[1] :], shift, scale)
        return nn.Dense(self.in_channels, dtype=self.dtype, name="proj_out")(normed)
