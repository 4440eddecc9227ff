"""Detector: a small convolutional network that counts the things of a picture and names its ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rats_jax.fields import MOST_PIXELS, Field, integer, listed, read_fields
from rats_jax.networks.abstract import Network
from rats_jax.networks.layers import Conv, GroupNorm
from rats_jax.types import Array, Key, Params

FIELDS: Mapping[str, Field] = {
    "image_size": integer(32, most=MOST_PIXELS),
    "num_classes": integer(64),
    "num_grounds": integer(8),
    "max_count": integer(3),
    "channels": listed((32, 64, 128), integer(1)),
}


class Detection(NamedTuple):
    """What a picture shows.

    Attributes:
        counts: [B, num_classes, max_count + 1] float32 logits of how many there are of each class.
        ground: [B, num_grounds] float32 logits.
    """

    counts: Array
    ground: Array


class Detector(Network):
    """Residual blocks, each half as large as the one before, and two heads on their mean and maximum.

    Attributes:
        image_size: of height and width.
        num_classes: of things.
        num_grounds: of colours of the ground.
        max_count: the most of a thing that it tells from more.
        channels: of the blocks.
    """

    image_size: int
    num_classes: int
    num_grounds: int
    max_count: int
    channels: tuple[int, ...]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Detector:
        """Build it from its config.json.

        Raises:
            ValueError: a field is not computed here: 'name=value: expected ...'.
        """
        return cls(**read_fields(config, FIELDS))

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights."""
        return self.init(key, jnp.zeros((1, self.image_size, self.image_size, 3)))["params"]

    @nn.compact
    def __call__(self, images: Array) -> Detection:
        """Look at images [B, H, W, 3] in [0, 1]."""
        features = residual_features(2.0 * images - 1.0, self.channels)
        pooled = jnp.concatenate([features.mean((1, 2)), features.max((1, 2))], axis=-1)
        hidden = jax.nn.silu(nn.Dense(256, name="hidden")(pooled))
        counts = nn.Dense(self.num_classes * (self.max_count + 1), name="counts")(hidden)
        ground = nn.Dense(self.num_grounds, name="ground")(pooled)
        return Detection(counts.reshape(-1, self.num_classes, self.max_count + 1), ground)


def residual_features(inputs: Array, channels: Sequence[int]) -> Array:
    """Look at inputs [B, H, W, C] through residual blocks, each at half the resolution of the one before.

    Args:
        inputs: pictures in [-1, 1].
        channels: of the blocks, K of them.

    Returns:
        [B, H / 2^(K - 1), W / 2^(K - 1), channels[-1]]; the layers are those of the module that calls it.
    """
    features = Conv(channels[0], name="conv_in")(inputs)
    for i, width in enumerate(channels):
        if i:
            features = nn.avg_pool(features, (2, 2), (2, 2))
        hidden = jax.nn.silu(GroupNorm(8, 1e-5, name=f"blocks_{i}_norm1")(features))
        hidden = Conv(width, name=f"blocks_{i}_conv1")(hidden)
        hidden = jax.nn.silu(GroupNorm(8, 1e-5, name=f"blocks_{i}_norm2")(hidden))
        hidden = Conv(width, name=f"blocks_{i}_conv2")(hidden)
        features = nn.Dense(width, name=f"blocks_{i}_skip")(features) + hidden
    return jax.nn.silu(GroupNorm(8, 1e-5, name="norm_out")(features))
