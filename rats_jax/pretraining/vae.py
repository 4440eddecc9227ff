"""The miniature autoencoders: their training and their use on pictures and videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.autoencoder_kl_wan import AutoencoderKLWan
from rats_jax.pretraining.augment import jitter_colours
from rats_jax.pretraining.fit import fit_as
from rats_jax.types import Array, Key, Params

Autoencoder = AutoencoderKL | AutoencoderKLWan
"""Of pictures [B, H, W, 3] and latents [B, h, w, C], or of videos [B, T, H, W, 3] and [B, t, h, w, C]."""


def encode(vae: Autoencoder, params: Params, images: Array) -> tuple[Array, Array]:
    """Encode pictures or videos in [0, 1]: mean and log variance of their latents, not scaled."""
    moments: Any = vae.apply({"params": params}, 2.0 * images - 1.0, method=vae.encode)
    return moments


def decode(vae: Autoencoder, params: Params, latents: Array) -> Array:
    """Decode latents that are not scaled: pictures or videos about [0, 1], not clipped."""
    images: Any = vae.apply({"params": params}, latents, method=vae.decode)
    return (images + 1.0) / 2.0


def train_vae(
    data: Any,
    draw_fn: Callable[[Any, Key, int], Array],
    vae: Autoencoder,
    training: Any,
    *,
    seed: int,
    state_file: Path | None = None,
    augment_fn: Callable[[Key, Array], Array] = jitter_colours,
) -> Params:
    """Train on L1 + L2 reconstruction with a small KL term.

    Args:
        data: what `draw_fn` draws from, kept on the device.
        draw_fn: (data, keys [2], B) -> pictures [B, H, W, 3] or videos [B, T, H, W, 3] in [0, 1].
        vae: what is trained.
        training: num_updates, batch_size, learning_rate, ema_decay, kl_weight.
        seed: of initialisation and draws.
        state_file: see `fit`.
        augment_fn: (key, what was drawn) -> what is learned from.

    Returns:
        Averaged weights.
    """
    params = jax.jit(vae.init_params)(jax.random.key(seed))

    def loss_fn(params: Params, data: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        keys = jax.random.split(key, 4)
        batch = augment_fn(keys[2], draw_fn(data, keys[:2], training.batch_size))
        mean, logvar = encode(vae, params, batch)
        latents = mean + jnp.exp(0.5 * logvar) * jax.random.normal(keys[3], mean.shape)
        error = 2.0 * (decode(vae, params, latents) - batch)  # in [-1, 1], the networks' own range
        kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
        mse = jnp.mean(jnp.square(error))
        return mse + jnp.mean(jnp.abs(error)) + training.kl_weight * kl, {"mse": mse, "kl": kl}

    return fit_as(training, loss_fn, params, data, seed=seed + 1, name="vae", state_file=state_file)


def scaling_factor(vae: AutoencoderKL, params: Params, images: Array) -> float:
    """Find what gives the latents of images [B, H, W, 3] in [0, 1] unit standard deviation."""
    mean, _ = jax.jit(lambda p, x: encode(vae, p, x))(params, images)
    return float(1.0 / jnp.std(mean))


def channel_moments(vae: AutoencoderKLWan, params: Params, videos: Array) -> dict[str, list[float]]:
    """Find mean and deviation of each channel of the latents of videos [B, T, H, W, 3] in [0, 1].

    Returns:
        latents_mean and latents_std of the autoencoder's config.
    """
    mean, _ = jax.jit(lambda p, x: encode(vae, p, x))(params, videos)
    moments = {"latents_mean": jnp.mean(mean, (0, 1, 2, 3)), "latents_std": jnp.std(mean, (0, 1, 2, 3))}
    return {name: [float(value) for value in values] for name, values in moments.items()}
