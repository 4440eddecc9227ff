"""CLIP's transformer, the encoder of its text tower and of its vision tower.

Parameters are named and nested as in transformers' Flax classes, so that `torch_name` of their path is the
name in the file.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, arXiv
2103.00020; transformers, models/clip/modeling_clip.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import normal

from rats_jax.fields import Field, expect, integer, number, one_of, read_fields
from rats_jax.networks.attention import join_heads, split_heads
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import ACTIVATIONS
from rats_jax.networks.pretrained_fields import PRETRAINED_FIELDS, PRETRAINED_IGNORED
from rats_jax.networks.stack import run_layers
from rats_jax.types import Array

TOWER_IGNORED: Collection[str] = PRETRAINED_IGNORED | {
    "attention_dropout",
    "dropout",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
}
"""Fields of a tower that compute nothing once it is trained."""


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of a tower, with the names of its config.json.

    Attributes:
        hidden_size: D, the features of a token.
        intermediate_size: features between the two layers of the perceptron.
        num_hidden_layers: of the transformer.
        num_attention_heads: divides hidden_size.
        hidden_act: the perceptron's activation, of ACTIVATIONS.
        layer_norm_eps: added to the variance in every norm.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float


def tower_fields(
    model_type: str, *, hidden_size: int, intermediate_size: int, num_attention_heads: int
) -> Mapping[str, Field]:
    """Fields of both towers; what differs between the two are the type's name and the default sizes."""
    return {
        **PRETRAINED_FIELDS,
        "model_type": one_of(model_type),
        "hidden_size": integer(hidden_size),
        "intermediate_size": integer(intermediate_size),
        "num_hidden_layers": integer(12, most=200),
        "num_attention_heads": integer(num_attention_heads),
        "hidden_act": one_of("quick_gelu", *(name for name in ACTIVATIONS if name != "quick_gelu")),
        "layer_norm_eps": number(1e-5),
        # Of the towers that are published by themselves; in a dual encoder its own counts.
        "projection_dim": integer(512),
    }


def read_tower(config: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """Read the fields of a tower that choose what is computed.

    Args:
        config: content of a config.json, or a part of it.
        fields: from `tower_fields`, and the tower's own.

    Returns:
        Their values by name.

    Raises:
        ValueError: 'name=value: expected ...'.
    """
    values = read_fields(config, fields, ignored=TOWER_IGNORED)
    heads = values["num_attention_heads"]
    expected = f"a multiple of num_attention_heads={heads}"
    expect(values["hidden_size"] % heads == 0, "hidden_size", values["hidden_size"], expected)
    return {name: value for name, value in values.items() if name not in ("model_type", *PRETRAINED_FIELDS)}


class CLIPAttention(nn.Module):
    """Self-attention with projections of queries, keys, values and outputs."""

    config: TowerConfig
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, hidden: Array, mask: Array | None) -> Array:
        """Let each token of [B, L, D] read those that the mask shows it: [B, L, D]."""

        def project(name: str, inputs: Array) -> Array:
            layer = nn.Dense(self.config.hidden_size, dtype=self.dtype, kernel_init=normal(0.01), name=name)
            return layer(inputs)

        query, key, value = (
            split_heads(project(f"{part}_proj", hidden), self.config.num_attention_heads) for part in "qkv"
        )
        return project("out_proj", join_heads(self.kernels.attend(query, key, value, mask)))


class CLIPMLP(nn.Module):
    """Perceptron of two layers that each token goes through by itself."""

    config: TowerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """[B, L, D] -> [B, L, D]."""
        width, inner = self.config.hidden_size, self.config.intermediate_size
        hidden = nn.Dense(inner, dtype=self.dtype, kernel_init=normal(0.01), name="fc1")(hidden)
        hidden = ACTIVATIONS[self.config.hidden_act](hidden)
        return nn.Dense(width, dtype=self.dtype, kernel_init=normal(0.01), name="fc2")(hidden)


class CLIPEncoderLayer(nn.Module):
    """Attention and perceptron, each behind a norm and beside a residual connection."""

    config: TowerConfig
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, hidden: Array, mask: Array | None) -> tuple[Array, None]:
        """[B, L, D] -> [B, L, D], as a layer of `run_layers`."""
        normed = make_norm(self.config, self.dtype, "layer_norm1")(hidden)
        hidden = hidden + CLIPAttention(self.config, self.dtype, self.kernels, name="self_attn")(normed, mask)
        normed = make_norm(self.config, self.dtype, "layer_norm2")(hidden)
        return hidden + CLIPMLP(self.config, self.dtype, name="mlp")(normed), None


class _Layers(nn.Module):
    """The list of layers, which the names in files count as a module."""

    config: TowerConfig
    dtype: Any
    kernels: Kernels

    @nn.compact
    def __call__(self, hidden: Array, mask: Array | None) -> tuple[Array, Array]:
        attributes = {"config": self.config, "dtype": self.dtype, "kernels": self.kernels}
        last = self.config.num_hidden_layers - 1
        entering = run_layers(CLIPEncoderLayer, "", last, hidden, mask, **attributes)
        hidden, _ = CLIPEncoderLayer(**attributes, name=str(last))(entering, mask)
        return hidden, entering


class CLIPEncoder(nn.Module):
    """The transformer: layers that follow each other, without the norm at the end.

    Attributes:
        config: sizes.
        dtype: of matrix products and of what they give; norms and softmax are float32 inside.
        kernels: of the device.
    """

    config: TowerConfig
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, hidden: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """Run all layers.

        Args:
            hidden: [B, L, D].
            mask: [L, L] bool, false where a token (rows) may not read another (columns); None shows it all.

        Returns:
            What leaves the last layer, and what enters it, [B, L, D] both.
        """
        chex.assert_rank(hidden, 3)
        return _Layers(self.config, self.dtype, self.kernels, name="layers")(hidden, mask)


def make_norm(config: TowerConfig, dtype: Any, name: str) -> nn.LayerNorm:
    """Layer norm of a tower, computed in float32; `dtype` is the result's."""
    return nn.LayerNorm(epsilon=config.layer_norm_eps, dtype=dtype, name=name)
