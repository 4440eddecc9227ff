"""Detector: a small convolutional network that counts the things of a picture and names its ground."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rats_jax.fields import MOST_PIXELS, Field, integer, listed
from rats_jax.networks.residual import ResidualNetwork
from rats_jax.types import Array

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


class Detector(ResidualNetwork):
    """Two heads on the mean and the maximum of a residual network.

    Attributes:
        image_size, num_classes, num_grounds, channels: as of `ResidualNetwork`.
        max_count: the most of a thing that it tells from more.
    """

    fields = FIELDS
    max_count: int

    @nn.compact
    def __call__(self, images: Array) -> Detection:
        """Look at images [B, H, W, 3] in [0, 1]."""
        features = self.look(images)
        pooled = jnp.concatenate([features.mean((1, 2)), features.max((1, 2))], axis=-1)
        hidden = jax.nn.silu(nn.Dense(256, name="hidden")(pooled))
        counts = nn.Dense(self.num_classes * (self.max_count + 1), name="counts")(hidden)
        ground = nn.Dense(self.num_grounds, name="ground")(pooled)
        return Detection(counts.reshape(-1, self.num_classes, self.max_count + 1), ground)
