"""T5's text encoder, of FLUX and Stable Diffusion 3, and UMT5's, of Wan.

Parameters are named and nested as in transformers, so that `torch_name` of their path is the name in the
file; all layers but for T5's one table of position biases are a stack.

Source: Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer,
arXiv 1910.10683; transformers, models/t5/modeling_t5.py and models/umt5/modeling_umt5.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import normal

from rats_jax.fields import Field, expect, flag, integer, number, one_of, only, optional, read_fields
from rats_jax.networks.abstract import Network
from rats_jax.networks.attention import join_heads, split_heads
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import ACTIVATIONS, gelu_tanh
from rats_jax.networks.pretrained_fields import PRETRAINED_FIELDS, PRETRAINED_IGNORED
from rats_jax.networks.stack import stack
from rats_jax.types import Array, Key, Params

_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    **ACTIVATIONS,
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh"), gelu_tanh),
}
_PROJECTIONS = tuple(prefix + name for prefix in ("", "gated-") for name in _ACTIVATIONS)

# Of the decoder, of training, and of the code that the weights come from; the classes do not read the last.
IGNORED = PRETRAINED_IGNORED | {
    *(
        "num_decoder_layers",
        "scale_decoder_outputs",
        "dropout_rate",
        "classifier_dropout",
        "initializer_factor",
    ),
    *("n_positions", "output_past", "scalable_attention"),
}
"""Fields that choose nothing of what the encoder computes."""


def _make_fields(name: str, **defaults: Any) -> Mapping[str, Field]:
    projection = defaults["feed_forward_proj"]
    return {
        **PRETRAINED_FIELDS,
        "model_type": one_of(name),
        "vocab_size": integer(defaults["vocab_size"]),
        "d_model": integer(512),
        "d_kv": integer(64),
        "d_ff": integer(defaults["d_ff"]),
        "num_layers": integer(defaults["num_layers"], most=1000),
        "num_heads": integer(defaults["num_heads"]),
        "relative_attention_num_buckets": integer(32, least=4),
        "relative_attention_max_distance": integer(128, least=2),
        "layer_norm_epsilon": number(1e-6),
        "is_decoder": only(False),  # true hides later tokens, and has buckets for those behind alone
        "feed_forward_proj": one_of(projection, *(other for other in _PROJECTIONS if other != projection)),
        # What follows from feed_forward_proj, written out.
        "dense_act_fn": optional(one_of("relu", *(other for other in _ACTIVATIONS if other != "relu"))),
        "is_gated_act": optional(flag(False)),
    }


@dataclass(frozen=True)
class T5Config:
    """Sizes of the encoder, with the names of its config.json.

    Attributes:
        vocab_size: number of token ids.
        d_model: D, the features of a token.
        d_kv: features of a head.
        d_ff: features between the two layers of the perceptron.
        num_layers: of the transformer.
        num_heads: of attention.
        relative_attention_num_buckets: biases of a head, half of them for each direction.
        relative_attention_max_distance: in tokens, from which on all share a bias.
        layer_norm_epsilon: added to the mean square in every norm.
        activation: of the perceptron.
        gated: whether a second layer multiplies the activated one.
        bias_per_layer: whether each layer has its own biases, as in UMT5, or all have the first one's.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int
    relative_attention_max_distance: int
    layer_norm_epsilon: float
    activation: str
    gated: bool
    bias_per_layer: bool

    @classmethod
    def read(
        cls, config: Mapping[str, Any], fields: Mapping[str, Field], *, bias_per_layer: bool
    ) -> T5Config:
        """Read a transformers config.json; ValueError 'name=value: expected ...'."""
        values = read_fields(config, fields, ignored=IGNORED)
        for name in ("model_type", "is_decoder", *PRETRAINED_FIELDS):
            del values[name]
        projection = values.pop("feed_forward_proj")
        gated, activation = projection.startswith("gated-"), projection.removeprefix("gated-")
        if projection == "gated-gelu":  # as the class does
            activation = "gelu_new"
        if values["dense_act_fn"] == "gelu_pytorch_tanh" and activation == "gelu_new":
            values["dense_act_fn"] = "gelu_new"  # another name of it
        for name, expected in (("dense_act_fn", activation), ("is_gated_act", gated)):
            value = values.pop(name)
            because = f"{expected!r} of feed_forward_proj={projection!r}"
            expect(value in (None, expected), name, value, because)
        buckets = values["relative_attention_num_buckets"]
        expect(buckets % 4 == 0, "relative_attention_num_buckets", buckets, "a multiple of 4")
        distance = values["relative_attention_max_distance"]
        expected = f"more than {buckets // 4}, a quarter of relative_attention_num_buckets"
        expect(distance > buckets // 4, "relative_attention_max_distance", distance, expected)
        return cls(**values, activation=activation, gated=gated, bias_per_layer=bias_per_layer)


def position_buckets(length: int, *, num_buckets: int, max_distance: int) -> np.ndarray:
    """Say which bias a token reads another with.

    By the distance from the reading token (rows) to the one that is read (columns): the first half of the
    buckets is for those behind or at it, the second for those before it; half of each is for one distance,
    the others grow logarithmically up to max_distance.

    Args:
        length: L, tokens.
        num_buckets: a multiple of 4.
        max_distance: above num_buckets / 4.

    Returns:
        [L, L] int32 in [0, num_buckets).

    Source: T5Attention._relative_position_bucket in transformers/models/t5/modeling_t5.py; float32 like it.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, exact = num_buckets // 2, num_buckets // 4
    steps = np.log(np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(exact))
    steps = steps / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + steps.astype(np.int32), half - 1)
    near = np.abs(distance) < exact
    return ((distance > 0) * half + np.where(near, np.abs(distance), far)).astype(np.int32)


class T5LayerNorm(nn.Module):
    """Norm by the root mean square, with a scale; computed in float32, keeps the dtype."""

    epsilon: float

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """Normalise the last axis."""
        scale = self.param("scale", nn.initializers.ones, hidden.shape[-1:])
        wide = hidden.astype(jnp.float32)
        mean_square = jnp.mean(wide**2, axis=-1, keepdims=True)
        return (wide * jax.lax.rsqrt(mean_square + self.epsilon) * scale).astype(hidden.dtype)


class T5Attention(nn.Module):
    """Self-attention with a bias for each distance, and without a scale of the scores."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(self, hidden: Array, positions: Array | np.ndarray, mask: Array | None) -> Array:
        """Let tokens read each other.

        Args:
            hidden: [B, L, D].
            positions: [N, L, L] float32, the biases of all layers; or [L, L] int32, the buckets of its own.
            mask: [B, L] bool, false for tokens that nobody may read, or None.
        """
        config = self.config

        def project(name: str) -> Array:
            layer = nn.Dense(config.num_heads * config.d_kv, use_bias=False, dtype=self.dtype, name=name)
            return split_heads(layer(hidden), config.num_heads)

        query, key, value = map(project, "qkv")
        bias = positions
        if config.bias_per_layer:
            table = nn.Embed(
                config.relative_attention_num_buckets, config.num_heads, name="relative_attention_bias"
            )
            bias = table(jnp.asarray(positions)).transpose(2, 0, 1)
        scores = jnp.einsum("blnd,bmnd->bnlm", query, key).astype(jnp.float32)
        scores += jnp.asarray(bias, jnp.float32)
        if mask is not None:
            scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        attended = join_heads(jnp.einsum("bnlm,bmnd->blnd", weights, value))
        return nn.Dense(config.d_model, use_bias=False, dtype=self.dtype, name="o")(attended)


class T5DenseReluDense(nn.Module):
    """Perceptron of two layers, or of two and a gate: [B, L, D] -> [B, L, D]."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """Run it on each token."""
        config, activate = self.config, _ACTIVATIONS[self.config.activation]

        def widen(name: str) -> Array:
            return nn.Dense(config.d_ff, use_bias=False, dtype=self.dtype, name=name)(hidden)

        inner = activate(widen("wi_0")) * widen("wi_1") if config.gated else activate(widen("wi"))
        return nn.Dense(config.d_model, use_bias=False, dtype=self.dtype, name="wo")(inner)


class _Layer(nn.Module):
    """Norm, attention or perceptron, and a residual connection beside them."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(self, hidden: Array, *attention: Any) -> Array:
        normed = T5LayerNorm(self.config.layer_norm_epsilon, name="layer_norm")(hidden)
        if attention:
            return hidden + T5Attention(self.config, self.dtype, name="SelfAttention")(normed, *attention)
        return hidden + T5DenseReluDense(self.config, self.dtype, name="DenseReluDense")(normed)


class T5Block(nn.Module):
    """Attention, then a perceptron."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(
        self, hidden: Array, positions: Array | np.ndarray, mask: Array | None
    ) -> tuple[Array, None]:
        """[B, L, D] -> [B, L, D]."""
        hidden = _Layer(self.config, self.dtype, name="layer_0")(hidden, positions, mask)
        return _Layer(self.config, self.dtype, name="layer_1")(hidden), None


class _Table(nn.Module):
    """A table of weights at the end of several names, where the file has it."""

    names: tuple[str, ...]
    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> Array:
        if self.names:
            return _Table(self.names[1:], self.shape, name=self.names[0])()
        return self.param("embedding", normal(), self.shape)


class T5Stack(nn.Module):
    """The transformer and the norm at its end."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(self, hidden: Array, mask: Array | None) -> Array:
        """[B, L, D] -> [B, L, D]."""
        config = self.config
        buckets = config.relative_attention_num_buckets
        positions: Any = position_buckets(
            hidden.shape[1], num_buckets=buckets, max_distance=config.relative_attention_max_distance
        )
        if not config.bias_per_layer:
            names = ("layer_0", "SelfAttention", "relative_attention_bias")
            table = _Table(names, (buckets, config.num_heads), name="block_0")()
            positions = table[positions].transpose(2, 0, 1).astype(jnp.float32)
        blocks = stack(T5Block, "block", 0, config.num_layers, config=config, dtype=self.dtype)
        hidden, _ = blocks(hidden, positions, mask)
        return T5LayerNorm(config.layer_norm_epsilon, name="final_layer_norm")(hidden)


class T5EncoderModel(Network):
    """T5's encoder.

    Attributes:
        config: sizes.
        dtype: of matrix products and of what is carried from layer to layer; norms, biases and softmax are
            float32. bfloat16 has float32's range; in float16, which is not offered, T5 overflows.
        kernels: of the device; none of them adds a bias to the scores, so they are not used.
    """

    config: T5Config
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    fields: ClassVar[Mapping[str, Field]] = _make_fields(
        "t5", vocab_size=32128, d_ff=2048, num_layers=6, num_heads=8, feed_forward_proj="relu"
    )
    bias_per_layer: ClassVar[bool] = False

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, dtype: Any = jnp.float32, kernels: Kernels = PLAIN
    ) -> T5EncoderModel:
        """Build it from a transformers config.json.

        Args:
            config: its content.
            dtype: compute dtype.
            kernels: of the device.

        Raises:
            ValueError: a field is not computed here: 'name=value: expected ...'.
        """
        sizes = T5Config.read(config, cls.fields, bias_per_layer=cls.bias_per_layer)
        return cls(sizes, dtype, kernels)

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights."""
        return self.init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    @nn.compact
    def __call__(self, input_ids: Array, mask: Array | None = None) -> Array:
        """Encode token ids.

        Args:
            input_ids: [B, L] int32.
            mask: [B, L] bool, false for tokens that nobody may read; None shows all, padding too, which is
                how FLUX and SD3 are used.

        Returns:
            [B, L, D] in `dtype`, differentiable in the weights.
        """
        chex.assert_rank(input_ids, 2)
        tokens = nn.Embed(self.config.vocab_size, self.config.d_model, embedding_init=normal(), name="shared")
        hidden = tokens(input_ids).astype(self.dtype)
        return T5Stack(self.config, self.dtype, name="encoder")(hidden, mask)


class UMT5EncoderModel(T5EncoderModel):
    """UMT5's encoder, whose layers have position biases of their own; all else as of `T5EncoderModel`."""

    fields: ClassVar[Mapping[str, Field]] = _make_fields(
        "umt5", vocab_size=250112, d_ff=1024, num_layers=8, num_heads=6, feed_forward_proj="gated-gelu"
    )
    bias_per_layer: ClassVar[bool] = True
