"""Tracker: a small convolutional network that says what thing a frame shows, where, and on which ground."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rats_jax.fields import MOST_PIXELS, Field, integer, listed
from rats_jax.networks.layers import Conv
from rats_jax.networks.residual import ResidualNetwork
from rats_jax.types import Array

FIELDS: Mapping[str, Field] = {
    "image_size": integer(32, most=MOST_PIXELS),
    "num_classes": integer(16),
    "num_grounds": integer(8),
    "channels": listed((16, 32, 64), integer(1)),
}


class Sighting(NamedTuple):
    """What frames show.

    Attributes:
        thing: [B, num_classes + 1] float32 logits of what it is; the last, that it is none of these.
        ground: [B, num_grounds] float32 logits.
        place: [B, 3] float32, row and column of its centre and its size, as shares of the frame's side.
    """

    thing: Array
    ground: Array
    place: Array


class Tracker(ResidualNetwork):
    """Heads on a residual network; the centre is where a map of its features weighs."""

    fields = FIELDS

    @nn.compact
    def __call__(self, frames: Array) -> Sighting:
        """Look at frames [B, H, W, 3] in [0, 1], each by itself."""
        features = self.look(frames)
        heat = Conv(1, name="heat")(features)[..., 0]
        shares = jax.nn.softmax(heat.reshape(heat.shape[0], -1)).reshape(heat.shape)
        centres = [(jnp.arange(side) + 0.5) / side for side in heat.shape[1:]]
        row = jnp.sum(shares * centres[0][:, None], axis=(1, 2))
        column = jnp.sum(shares * centres[1], axis=(1, 2))
        there = jnp.einsum("bhw,bhwc->bc", shares, features)
        pooled = jnp.concatenate([there, features.mean((1, 2)), features.max((1, 2))], axis=-1)
        hidden = jax.nn.silu(nn.Dense(128, name="hidden")(pooled))
        size = jax.nn.sigmoid(nn.Dense(1, name="size")(hidden)[:, 0])
        return Sighting(
            nn.Dense(self.num_classes + 1, name="thing")(hidden),
            nn.Dense(self.num_grounds, name="ground")(pooled),
            jnp.stack([row, column, size], axis=-1),
        )
