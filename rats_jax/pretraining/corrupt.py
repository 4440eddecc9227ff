"""Ways to spoil a picture by degrees, so that a reward model learns what quality is without human judges.

Every corruption is (key, images [B, H, W, 3] in [0, 1], severity [B] in [0, 1]) -> images in [0, 1];
the same key with a larger severity is the same damage, only stronger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rats_jax.pretraining.vae import Autoencoder, decode, encode
from rats_jax.types import Array, Key, Params

Corruption = Callable[[Key, Array, Array], Array]


def _per_image(severity: Array) -> Array:
    return severity[:, None, None, None]


def _unit(images: Array) -> Array:
    return jnp.clip(images, 0.0, 1.0)


def noise(key: Key, images: Array, severity: Array) -> Array:
    """Add white noise."""
    return _unit(images + 0.5 * _per_image(severity) * jax.random.normal(key, images.shape))


def blur(key: Key, images: Array, severity: Array) -> Array:
    """Blend with a box-blurred copy, seven pixels wide."""
    del key
    padded = jnp.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="edge")
    blurred = jax.lax.reduce_window(padded, 0.0, jax.lax.add, (1, 7, 7, 1), (1, 1, 1, 1), "VALID") / 49.0
    return images + _per_image(severity) * (blurred - images)


def mix(key: Key, images: Array, severity: Array) -> Array:
    """Blend with another picture of the batch."""
    del key
    return images + 0.6 * _per_image(severity) * (jnp.roll(images, 1, axis=0) - images)


def fade(key: Key, images: Array, severity: Array) -> Array:
    """Blend with a random flat grey."""
    grey = jax.random.uniform(key, (images.shape[0], 1, 1, 1))
    return images + 0.8 * _per_image(severity) * (grey - images)


def saturate(key: Key, images: Array, severity: Array) -> Array:
    """Push colours away from grey, or for half of the pictures towards it."""
    luma = jnp.mean(images, axis=-1, keepdims=True)
    gain = jnp.where(jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1)), 3.0, -1.0)
    return _unit(luma + (1.0 + gain * _per_image(severity)) * (images - luma))


def contrast(key: Key, images: Array, severity: Array) -> Array:
    """Stretch the values about the picture's own mean until they clip."""
    del key
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    return _unit(mean + (1.0 + 3.0 * _per_image(severity)) * (images - mean))


def grid(key: Key, images: Array, severity: Array) -> Array:
    """Add a periodic pattern of a random period, direction and colour."""
    key_wave, key_phase, key_colour = jax.random.split(key, 3)
    batch, height, width, _ = images.shape
    wave = jax.random.uniform(key_wave, (batch, 2, 1, 1, 1), minval=-3.0, maxval=3.0)
    phase = jax.random.uniform(key_phase, (batch, 1, 1, 1), maxval=6.3)
    y, x = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    pattern = jnp.sin(wave[:, 0] * y + wave[:, 1] * x + phase)
    colour = jax.random.uniform(key_colour, (batch, 1, 1, 3), minval=-1.0, maxval=1.0)
    return _unit(images + 0.6 * _per_image(severity) * pattern * colour)


def tint(key: Key, images: Array, severity: Array) -> Array:
    """Scale and shift each colour channel by its own amount."""
    key_scale, key_shift = jax.random.split(key)
    shape = (images.shape[0], 1, 1, 3)
    scale = jax.random.uniform(key_scale, shape, minval=-0.7, maxval=0.7)
    shift = jax.random.uniform(key_shift, shape, minval=-0.4, maxval=0.4)
    return _unit(images * (1.0 + _per_image(severity) * scale) + _per_image(severity) * shift)


def swap_blocks(key: Key, images: Array, severity: Array) -> Array:
    """Replace 8x8 blocks with those of another picture, each with probability 0.6 * severity."""
    batch, height, width, _ = images.shape
    drawn = jax.random.uniform(key, (batch, height // 8, width // 8)) < 0.6 * severity[:, None, None]
    mask = jnp.repeat(jnp.repeat(drawn, 8, axis=1), 8, axis=2)[..., None]
    return jnp.where(mask, jnp.roll(images, 1, axis=0), images)


def bend(key: Key, images: Array, severity: Array) -> Array:
    """Displace rows and columns along sine waves of up to four pixels."""
    batch, height, width, _ = images.shape
    key_wave, key_phase = jax.random.split(key)
    wave = jax.random.uniform(key_wave, (batch, 2), minval=0.3, maxval=1.0)
    phase = jax.random.uniform(key_phase, (batch, 2), maxval=6.3)
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    amount = 4.0 * severity[:, None, None]
    rows = y + amount * jnp.sin(wave[:, 0, None, None] * x + phase[:, 0, None, None])
    columns = x + amount * jnp.sin(wave[:, 1, None, None] * y + phase[:, 1, None, None])

    def sample(image: Array, rows: Array, columns: Array) -> Array:
        def one(channel: Array) -> Array:
            return jax.scipy.ndimage.map_coordinates(channel, [rows, columns], order=1, mode="nearest")

        return jax.vmap(one, in_axes=-1, out_axes=-1)(image)

    return _unit(jax.vmap(sample)(images, rows, columns))


def cut_out(key: Key, images: Array, severity: Array) -> Array:
    """Paint a square of up to 20 pixels, somewhere, in a random colour."""
    batch, height, width, _ = images.shape
    key_place, key_colour = jax.random.split(key)
    centre = jax.random.uniform(key_place, (batch, 2, 1, 1), minval=6.0, maxval=height - 6.0)
    half = 10.0 * severity[:, None, None]
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (jnp.abs(y - centre[:, 0]) < half) & (jnp.abs(x - centre[:, 1]) < half)
    return jnp.where(inside[..., None], jax.random.uniform(key_colour, (batch, 1, 1, 3)), images)


def autoencode(vae: Autoencoder, params: Params) -> Corruption:
    """Make the damage that every picture of the model has, whatever the severity: the autoencoder's."""

    def corrupt(key: Key, images: Array, severity: Array) -> Array:
        del key, severity
        return _unit(decode(vae, params, encode(vae, params, images)[0]))

    return corrupt


def latent_noise(vae: Autoencoder, params: Params) -> Corruption:
    """Make the corruption that shakes a picture's latents: what a sampler of too few steps leaves behind."""

    def corrupt(key: Key, images: Array, severity: Array) -> Array:
        mean, _ = encode(vae, params, images)
        amount = severity.reshape(-1, *(1,) * (mean.ndim - 1)) * jnp.std(mean)
        shaken = mean + amount * jax.random.normal(key, mean.shape)
        return _unit(decode(vae, params, shaken))

    return corrupt


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": noise,
    "blur": blur,
    "mix": mix,
    "fade": fade,
    "saturate": saturate,
    "contrast": contrast,
    "grid": grid,
    "tint": tint,
    "swap_blocks": swap_blocks,
    "bend": bend,
    "cut_out": cut_out,
}


def spoil(key: Key, corruptions: Mapping[str, Corruption], images: Array, severity: Array) -> Array:
    """Spoil a batch, an equal part of it by each of the corruptions.

    Args:
        key: typed key.
        corruptions: by name, their number divides B.
        images: [B, H, W, 3] in [0, 1].
        severity: [B] in [0, 1].

    Returns:
        [B, H, W, 3] in [0, 1], in the order of `images`.
    """
    keys = jax.random.split(key, len(corruptions))
    groups = zip(
        keys,
        corruptions.values(),
        jnp.split(images, len(keys)),
        jnp.split(severity, len(keys)),
        strict=True,
    )
    return jnp.concatenate([corrupt(k, x, s) for k, corrupt, x, s in groups])


def blend_and_spoil(keys: Key, images: Array, training: Any) -> tuple[Array, Array]:
    """Blend some pictures with others of the batch and spoil half of all, for a judge to learn from.

    Args:
        keys: [4] typed keys.
        images: [B, H, W, 3] in [0, 1].
        training: blends (their share), corruptions (names, their number divides B), max_severity.

    Returns:
        The pictures, and which of them are blends, [B] bool: the first ones.
    """
    key_spoil, key_half, key_severity, key_share = keys
    batch = images.shape[0]
    is_blend = jnp.arange(batch) < round(training.blends * batch)
    share = jax.random.uniform(key_share, (batch, 1, 1, 1), minval=0.35, maxval=0.65)
    blends = images + share * (jnp.roll(images, 1, axis=0) - images)
    images = jnp.where(is_blend[:, None, None, None], blends, images)
    severity = jax.random.uniform(key_severity, (batch,), maxval=training.max_severity)
    corruptions = {name: CORRUPTIONS[name] for name in training.corruptions}
    spoilt = spoil(key_spoil, corruptions, images, severity)
    return jnp.where(jax.random.bernoulli(key_half, 0.5, (batch, 1, 1, 1)), spoilt, images), is_blend
