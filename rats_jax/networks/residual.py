"""Residual network of the judges: blocks of convolutions, each at half the resolution of the one before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from rats_jax.fields import Field, read_fields
from rats_jax.networks.abstract import Network
from rats_jax.networks.layers import Conv, GroupNorm
from rats_jax.types import Array, Key, Params


class ResidualNetwork(Network):
    """What looks at small pictures of things on a coloured ground; the heads are those of its subclasses.

    Attributes:
        fields: of its config.json.
        image_size: of height and width.
        num_classes: of things.
        num_grounds: of colours of the ground.
        channels: of the blocks.
    """

    fields: ClassVar[Mapping[str, Field]]
    image_size: int
    num_classes: int
    num_grounds: int
    channels: tuple[int, ...]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build it from its config.json.

        Raises:
            ValueError: a field is not computed here: 'name=value: expected ...'.
        """
        return cls(**read_fields(config, cls.fields))

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights."""
        return self.init(key, jnp.zeros((1, self.image_size, self.image_size, 3)))["params"]

    def look(self, images: Array) -> Array:
        """Look at images [B, H, W, 3] in [0, 1] through K blocks, inside a compact method.

        Returns:
            [B, H / 2^(K - 1), W / 2^(K - 1), channels[-1]].
        """
        features = Conv(self.channels[0], name="conv_in")(2.0 * images - 1.0)
        for i, width in enumerate(self.channels):
            if i:
                features = nn.avg_pool(features, (2, 2), (2, 2))
            hidden = jax.nn.silu(GroupNorm(8, 1e-5, name=f"blocks_{i}_norm1")(features))
            hidden = Conv(width, name=f"blocks_{i}_conv1")(hidden)
            hidden = jax.nn.silu(GroupNorm(8, 1e-5, name=f"blocks_{i}_norm2")(hidden))
            hidden = Conv(width, name=f"blocks_{i}_conv2")(hidden)
            features = nn.Dense(width, name=f"blocks_{i}_skip")(features) + hidden
        return jax.nn.silu(GroupNorm(8, 1e-5, name="norm_out")(features))
