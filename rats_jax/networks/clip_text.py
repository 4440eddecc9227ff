"""CLIP's text encoder: of Stable Diffusion 1, 2, XL and 3, of FLUX, and of the dual encoder.

Source: transformers, models/clip/modeling_clip.py, CLIPTextModel and CLIPTextModelWithProjection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import normal

from rats_jax.fields import integer
from rats_jax.networks.abstract import Network
from rats_jax.networks.clip_encoder import CLIPEncoder, TowerConfig, make_norm, read_tower, tower_fields
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.types import Array, Key, Params

TEXT_FIELDS = {
    **tower_fields("clip_text_model", hidden_size=512, intermediate_size=2048, num_attention_heads=8),
    "vocab_size": integer(49408),
    "max_position_embeddings": integer(77),
    "eos_token_id": integer(49407, least=0),
}
"""Fields of the text tower, with the defaults of transformers' CLIPTextConfig."""

_OLD_EOS_TOKEN_ID = 2


@dataclass(frozen=True)
class CLIPTextConfig(TowerConfig):
    """Sizes of the text tower.

    Attributes:
        projection_dim: P, of `CLIPTextModelWithProjection`.
        vocab_size: number of token ids.
        max_position_embeddings: the most tokens of a prompt.
        eos_token_id: of the end token, whose place is pooled; 2 marks a config from before transformers 4.31,
            where it says nothing about the vocabulary and the largest id of a prompt is taken for the end.
    """

    projection_dim: int
    vocab_size: int
    max_position_embeddings: int
    eos_token_id: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> CLIPTextConfig:
        """Read a transformers config.json; ValueError 'name=value: expected ...'."""
        return cls(**read_tower(config, TEXT_FIELDS))


class CLIPTextOutput(NamedTuple):
    """What pipelines take from a text encoder.

    Attributes:
        last: [B, L, D] after the last layer and the final norm: Stable Diffusion 1 and 2.
        penultimate: [B, L, D] that enters the last layer, not normalised: Stable Diffusion XL and 3.
        pooled: [B, D], `last` at the end token: FLUX.
        projected: [B, P], the projection of `pooled`: Stable Diffusion XL and 3; None without a projection.
    """

    last: Array
    penultimate: Array
    pooled: Array
    projected: Array | None = None


class CLIPTextEmbeddings(nn.Module):
    """Embeddings of tokens and of their positions, added in the precision of the weights."""

    config: CLIPTextConfig

    @nn.compact
    def __call__(self, input_ids: Array) -> Array:
        """[B, L] int32 -> [B, L, D]."""
        length, most = input_ids.shape[1], self.config.max_position_embeddings
        if length > most:
            raise ValueError(f"prompts of {length} tokens: expected at most max_position_embeddings={most}")
        width = self.config.hidden_size
        tokens = nn.Embed(self.config.vocab_size, width, embedding_init=normal(), name="token_embedding")
        positions = nn.Embed(most, width, embedding_init=normal(), name="position_embedding")
        return tokens(input_ids) + positions(jnp.arange(length))


class CLIPTextTransformer(nn.Module):
    """The text tower: each token reads those before it.

    Attributes:
        config: sizes.
        dtype: of matrix products and outputs; norms and softmax are float32 inside, and what the layers are
            added to keeps the precision of the weights.
        kernels: of the device.
    """

    config: CLIPTextConfig
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, input_ids: Array) -> CLIPTextOutput:
        """Encode token ids [B, L] int32, padded, which nothing marks as such."""
        chex.assert_rank(input_ids, 2)
        hidden = CLIPTextEmbeddings(self.config, name="embeddings")(input_ids)
        causal = jnp.tril(jnp.ones((input_ids.shape[1],) * 2, bool))
        hidden, penultimate = CLIPEncoder(self.config, self.dtype, self.kernels, name="encoder")(
            hidden, causal
        )
        last = make_norm(self.config, self.dtype, "final_layer_norm")(hidden)
        end = find_end(input_ids, self.config.eos_token_id)
        return CLIPTextOutput(last, penultimate, last[jnp.arange(last.shape[0]), end])


class CLIPTextModel(Network):
    """Text encoder without a projection.

    Attributes:
        config, dtype, kernels: as of `CLIPTextTransformer`.
    """

    config: CLIPTextConfig
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, dtype: Any = jnp.float32, kernels: Kernels = PLAIN
    ) -> CLIPTextModel:
        """Build it from a transformers config.json.

        Args:
            config: its content.
            dtype: compute dtype.
            kernels: of the device.

        Raises:
            ValueError: a field is not computed here: 'name=value: expected ...'.
        """
        return cls(CLIPTextConfig.read(config), dtype, kernels)

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights."""
        return self.init(key, jnp.zeros((1, self.config.max_position_embeddings), jnp.int32))["params"]

    @nn.compact
    def __call__(self, input_ids: Array) -> CLIPTextOutput:
        """Encode token ids.

        Args:
            input_ids: [B, L] int32, 1 <= L <= max_position_embeddings.

        Returns:
            Outputs in `dtype`, `penultimate` in the precision of the weights; differentiable in the weights.

        Raises:
            ValueError: too many tokens.
        """
        return CLIPTextTransformer(self.config, self.dtype, self.kernels, name="text_model")(input_ids)


class CLIPTextModelWithProjection(CLIPTextModel):
    """Text encoder with a projection of what is pooled; all else as of `CLIPTextModel`."""

    @nn.compact
    def __call__(self, input_ids: Array) -> CLIPTextOutput:
        """Encode token ids, see `CLIPTextModel`; `projected` is [B, projection_dim]."""
        outputs = CLIPTextTransformer(self.config, self.dtype, self.kernels, name="text_model")(input_ids)
        projection = nn.Dense(
            self.config.projection_dim, use_bias=False, dtype=self.dtype, name="text_projection"
        )
        return outputs._replace(projected=projection(outputs.pooled))


def find_end(input_ids: Array, eos_token_id: int) -> Array:
    """Find the end token of each prompt.

    Args:
        input_ids: [B, L] int32.
        eos_token_id: as of `CLIPTextConfig`.

    Returns:
        [B] int32: the first place of the end token, 0 where there is none; for 2, of the largest id.
    """
    if eos_token_id == _OLD_EOS_TOKEN_ID:
        return jnp.argmax(input_ids, axis=-1)
    return jnp.argmax(input_ids == eos_token_id, axis=-1)
