"""Transformer of Stable Diffusion 3 and 3.5.

Source: diffusers, models/transformers/transformer_sd3.py, SD3Transformer2DModel, and models/attention.py,
JointTransformerBlock.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.fields import (
    MOST_PIXELS,
    Field,
    expect,
    integer,
    listed,
    one_of,
    only,
    optional,
    read_fields,
)
from rats_jax.networks.abstract import Network
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import Conv
from rats_jax.networks.mmdit import Attention, FeedForward, Modulation, TimeTextEmbedding, modulate
from rats_jax.networks.stack import stack
from rats_jax.types import Array, Key, Params

PATCH = 2
"""Height and width of the latents of one token."""

FIELDS: Mapping[str, Field] = {
    "sample_size": integer(128, least=PATCH, most=MOST_PIXELS // 8),
    "patch_size": only(2),
    "in_channels": integer(16),
    "num_layers": integer(18, most=1000),
    "attention_head_dim": integer(64),
    "num_attention_heads": integer(18),
    "joint_attention_dim": integer(4096),
    "caption_projection_dim": integer(1152),
    "pooled_projection_dim": integer(2048),
    "out_channels": dataclasses.replace(optional(integer(16)), default=16),
    "pos_embed_max_size": integer(96, most=MOST_PIXELS // 8),
    "dual_attention_layers": listed((), integer(0, least=0), least=0),
    "qk_norm": one_of(None, "rms_norm"),
}
"""Arguments of diffusers' SD3Transformer2DModel."""


class JointTransformerBlock(nn.Module):
    """Block in which picture and prompt have weights of their own.

    Attributes:
        num_heads, head_dim: of attention.
        qk_norm: whether queries and keys are normalised: 3.5 does.
        dual: whether the picture also attends to itself alone: the first blocks of 3.5 medium.
        last: whether the prompt's tokens are not needed any more.
        dtype: of matrix products and their results.
        kernels: of the device.
    """

    num_heads: int
    head_dim: int
    qk_norm: bool
    dual: bool
    last: bool
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, streams: tuple[Array, Array], embedding: Array) -> tuple[tuple[Array, Array], None]:
        """Refine the tokens of the picture [B, L, D] and of the prompt [B, M, D]."""
        hidden, context = streams
        shift, scale, gate, *mlp = Modulation(9 if self.dual else 6, self.dtype, name="norm1")(embedding)
        mlp, second = mlp[:3], mlp[3:]
        modulation = Modulation(2 if self.last else 6, self.dtype, name="norm1_context")(embedding)
        # AdaLayerNormContinuous has them in the other order.
        c_shift, c_scale = modulation[1::-1] if self.last else modulation[:2]
        shared: dict[str, Any] = {
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "qk_norm": self.qk_norm,
            "dtype": self.dtype,
            "kernels": self.kernels,
        }
        joint = Attention(**shared, context_out=not self.last, name="attn")
        read, c_read = joint(modulate(hidden, shift, scale), modulate(context, c_shift, c_scale))
        refined = hidden + gate * read
        if self.dual:
            shift2, scale2, gate2 = second
            read, _ = Attention(**shared, name="attn2")(modulate(hidden, shift2, scale2))
            refined = refined + gate2 * read

        def refine(tokens: Array, shift: Array, scale: Array, gate: Array, name: str) -> Array:
            return tokens + gate * FeedForward(self.dtype, name=name)(modulate(tokens, shift, scale))

        refined = refine(refined, *mlp, name="ff")
        if c_read is None:
            return (refined, context), None
        c_gate, *c_mlp = modulation[2:]
        return (refined, refine(context + c_gate * c_read, *c_mlp, name="ff_context")), None


class PatchEmbed(nn.Module):
    """Tokens of latents, with a table of positions that lies in the checkpoint.

    Attributes:
        features: D.
        max_size: rows and columns of tokens in the table.
        base_size: rows and columns of a picture of the size that the network was first trained at.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: PatchEmbed in diffusers/models/embeddings.py.
    """

    features: int
    max_size: int
    base_size: int
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, latents: Array) -> Array:
        """[B, h, w, C] -> [B, h / 2 * w / 2, D]; the picture lies in the middle of the table."""
        tokens = Conv(
            self.features,
            (PATCH, PATCH),
            (PATCH, PATCH),
            ((0, 0), (0, 0)),
            dtype=self.dtype,
            kernels=self.kernels,
            name="proj",
        )(latents)
        size, (batch, height, width, _) = self.max_size, tokens.shape
        if max(height, width) > size:
            raise ValueError(f"{height} x {width} tokens: expected at most pos_embed_max_size={size}")
        table = self.param("pos_embed", self._init_table)
        # A constant of the network that its files carry: training leaves it as it is.
        table = jax.lax.stop_gradient(table).reshape(size, size, -1)
        top, left = (size - height) // 2, (size - width) // 2
        cropped = table[top : top + height, left : left + width].astype(self.dtype)
        return (tokens + cropped).reshape(batch, height * width, -1)

    def _init_table(self, _: Key) -> Array:
        """Sines and cosines of the column, then of the row: [1, max_size^2, D]; not run for shapes alone."""
        shape = (1, self.max_size**2, self.features // 4 * 4)
        return jax.pure_callback(self._table, jax.ShapeDtypeStruct(shape, jnp.float32))

    def _table(self) -> np.ndarray:
        quarter = self.features // 4
        frequencies = 10_000.0 ** (-np.arange(quarter) / quarter)
        positions = np.arange(self.max_size) / (self.max_size / self.base_size)
        phases = positions[:, None] * frequencies
        waves = np.concatenate([np.sin(phases), np.cos(phases)], axis=1)
        shape = (self.max_size, self.max_size, 2 * quarter)
        table = np.concatenate(
            [np.broadcast_to(waves[None, :], shape), np.broadcast_to(waves[:, None], shape)], axis=2
        )
        return table.reshape(1, self.max_size**2, -1).astype(np.float32)


class SD3Transformer2DModel(Network):
    """Transformer of Stable Diffusion 3.

    Attributes:
        sample_size: height and width of the latents that it was made for.
        in_channels: of the latents.
        num_layers: of blocks.
        attention_head_dim, num_attention_heads: of attention.
        joint_attention_dim: features of a token of the prompt.
        pooled_projection_dim: features of the pooled prompt.
        pos_embed_max_size: rows and columns of tokens for which there are positions.
        dual_attention_layers: blocks with a second attention.
        qk_norm: 'rms_norm' or None.
        dtype: of matrix products; norms and softmax are float32.
        kernels: of the device.
    """

    sample_size: int
    in_channels: int
    num_layers: int
    attention_head_dim: int
    num_attention_heads: int
    joint_attention_dim: int
    pooled_projection_dim: int
    pos_embed_max_size: int
    dual_attention_layers: tuple[int, ...]
    qk_norm: str | None
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, dtype: Any = jnp.float32, kernels: Kernels = PLAIN
    ) -> SD3Transformer2DModel:
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
        channels, out = values["in_channels"], values.pop("out_channels")
        expect(out in (None, channels), "out_channels", out, f"null or in_channels={channels}")
        width = values["attention_head_dim"] * values["num_attention_heads"]
        caption = values.pop("caption_projection_dim")
        expect(caption == width, "caption_projection_dim", caption, f"{width}, the width of the transformer")
        expect(width % 4 == 0, "num_attention_heads", values["num_attention_heads"], "a width that 4 divides")
        expect(values["sample_size"] % PATCH == 0, "sample_size", values["sample_size"], "an even number")
        dual, layers = values["dual_attention_layers"], values["num_layers"]
        expect(all(i < layers for i in dual), "dual_attention_layers", dual, f"numbers below {layers}")
        return cls(**values, dtype=dtype, kernels=kernels)

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights; the table of positions is computed."""
        return self.init(
            key,
            jnp.zeros((1, PATCH, PATCH, self.in_channels)),
            jnp.zeros((1, 1, self.joint_attention_dim)),
            jnp.zeros((1, self.pooled_projection_dim)),
            jnp.zeros(1),
        )["params"]

    @nn.compact
    def __call__(self, latents: Array, context: Array, pooled: Array, timestep: Array) -> Array:
        """Predict the velocity of noisy latents.

        Args:
            latents: [B, h, w, in_channels], h and w even.
            context: [B, M, joint_attention_dim], of the prompt.
            pooled: [B, pooled_projection_dim], of the prompt.
            timestep: [B] float32, sigma * 1000.

        Returns:
            [B, h, w, in_channels] in `dtype`, differentiable in the weights and all arrays.

        Raises:
            ValueError: more tokens than it has positions for.
        """
        chex.assert_rank([latents, context, pooled, timestep], [4, 3, 2, 1])
        width = self.attention_head_dim * self.num_attention_heads
        embedding = TimeTextEmbedding(width, self.dtype, name="time_text_embed")(timestep, pooled)
        hidden = PatchEmbed(
            width,
            self.pos_embed_max_size,
            self.sample_size // PATCH,
            self.dtype,
            self.kernels,
            name="pos_embed",
        )(latents)
        context = nn.Dense(width, dtype=self.dtype, name="context_embedder")(context)
        streams, first = (hidden, context), 0
        for (dual, last), layers in itertools.groupby(range(self.num_layers), self._kind):
            count = len(list(layers))
            blocks = stack(
                JointTransformerBlock,
                "transformer_blocks",
                first,
                count,
                num_heads=self.num_attention_heads,
                head_dim=self.attention_head_dim,
                qk_norm=self.qk_norm is not None,
                dual=dual,
                last=last,
                dtype=self.dtype,
                kernels=self.kernels,
            )
            (streams, _), first = blocks(streams, embedding), first + count
        scale, shift = Modulation(2, self.dtype, name="norm_out")(embedding)
        tokens = modulate(streams[0], shift, scale)
        patches = nn.Dense(PATCH**2 * self.in_channels, dtype=self.dtype, name="proj_out")(tokens)
        batch, height, width, channels = latents.shape
        grid = patches.reshape(batch, height // PATCH, width // PATCH, PATCH, PATCH, channels)
        return grid.swapaxes(2, 3).reshape(latents.shape)

    def _kind(self, layer: int) -> tuple[bool, bool]:
        return layer in self.dual_attention_layers, layer == self.num_layers - 1
