"""Augmentations of image batches [B, H, W, 3] in [0, 1], jitted with the loss that uses them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rats_jax.types import Array, Key


def flip_and_shift(key: Key, images: Array, *, max_shift: int = 2) -> Array:
    """Mirror half of the pictures and move each by up to `max_shift` pixels over white.

    Args:
        key: typed key.
        images: [B, H, W, 3] in [0, 1].
        max_shift: in pixels.

    Returns:
        [B, H, W, 3].
    """
    batch, height, width, _ = images.shape
    key_flip, key_shift = jax.random.split(key)
    flip = jax.random.bernoulli(key_flip, 0.5, (batch, 1, 1, 1))
    images = jnp.where(flip, images[:, :, ::-1], images)
    pad = ((0, 0), (max_shift, max_shift), (max_shift, max_shift), (0, 0))
    padded = jnp.pad(images, pad, constant_values=1.0)
    offsets = jax.random.randint(key_shift, (batch, 2), 0, 2 * max_shift + 1)

    def crop(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, 3))

    return jax.vmap(crop)(padded, offsets)


def jitter_colours(key: Key, images: Array) -> Array:
    """Permute the channels of a quarter of the pictures and scale the contrast of a quarter.

    Args:
        key: typed key.
        images: [B, H, W, 3] in [0, 1].

    Returns:
        [B, H, W, 3] in [0, 1].
    """
    batch = images.shape[0]
    key_roll, key_use, key_scale, key_contrast = jax.random.split(key, 4)
    rolled = jax.vmap(lambda x, n: jnp.roll(x, n, axis=-1))(
        images, jax.random.randint(key_roll, (batch,), 1, 3)
    )
    images = jnp.where(jax.random.bernoulli(key_use, 0.25, (batch, 1, 1, 1)), rolled, images)
    scale = jax.random.uniform(key_scale, (batch, 1, 1, 1), minval=0.4, maxval=1.0)
    faded = 0.5 + scale * (images - 0.5)
    return jnp.where(jax.random.bernoulli(key_contrast, 0.25, (batch, 1, 1, 1)), faded, images)
