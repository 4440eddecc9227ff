"""The miniature AutoencoderKL, 32x32 pictures to 8x8x4 latents: its training and its use on pictures."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.pretraining.augment import flip_and_shift, jitter_colours
from rats_jax.pretraining.fit import fit
from rats_jax.types import Array, Key, Params


def encode(vae: AutoencoderKL, params: Params, images: Array) -> tuple[Array, Array]:
    """Encode images [B, H, W, 3] in [0, 1]: mean and log variance, [B, h, w, C] each, not scaled."""
    moments: Any = vae.apply({"params": params}, 2.0 * images - 1.0, method=vae.encode)
    return moments


def decode(vae: AutoencoderKL, params: Params, latents: Array) -> Array:
    """Decode latents [B, h, w, C] that are not scaled: [B, H, W, 3] about [0, 1], not clipped."""
    images: Any = vae.apply({"params": params}, latents, method=vae.decode)
    return (images + 1.0) / 2.0


def train_vae(
    images: np.ndarray, config: dict[str, Any], training: Any, *, seed: int
) -> tuple[Params, float]:
    """Train on L1 + L2 reconstruction with a small KL term.

    Args:
        images: [N, H, W, 3] uint8.
        config: a diffusers AutoencoderKL config.
        training: num_updates, batch_size, learning_rate, ema_decay, kl_weight.
        seed: of initialisation and draws.

    Returns:
        The weights and the scaling_factor that gives latents unit standard deviation.
    """
    vae = AutoencoderKL.from_config(config)
    params = jax.jit(vae.init_params)(jax.random.key(seed))

    def loss_fn(params: Params, images: Array, key: Key) -> tuple[Array, dict[str, Array]]:
        key_pick, key_augment, key_colour, key_latent = jax.random.split(key, 4)
        pick = jax.random.choice(key_pick, images.shape[0], (training.batch_size,), replace=False)
        batch = flip_and_shift(key_augment, images[pick] / 255.0)
        batch = jitter_colours(key_colour, batch)
        mean, logvar = encode(vae, params, batch)
        latents = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key_latent, mean.shape)
        error = 2.0 * (decode(vae, params, latents) - batch)  # in [-1, 1], the networks' own range
        kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
        mse = jnp.mean(jnp.square(error))
        return mse + jnp.mean(jnp.abs(error)) + training.kl_weight * kl, {"mse": mse, "kl": kl}

    params = fit(
        loss_fn,
        params,
        jnp.asarray(images),
        num_updates=training.num_updates,
        learning_rate=training.learning_rate,
        ema_decay=training.ema_decay,
        seed=seed + 1,
        name="vae",
    )
    mean, _ = jax.jit(lambda p, x: encode(vae, p, x))(params, jnp.asarray(images[:512] / 255.0, jnp.float32))
    return params, float(1.0 / jnp.std(mean))
