"""Train the miniature AutoencoderKL: 32x32 pictures to 8x8x4 latents."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.pipelines import stable_diffusion as sd
from rats_jax.pretraining.augment import flip_and_shift, jitter_colours
from rats_jax.pretraining.fit import fit
from rats_jax.types import Array, Key, Params


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
    vae = sd.make_vae(config)
    key = jax.random.key(seed)
    params = jax.jit(lambda k: sd.init_vae(vae, k))(key)

    def loss_fn(params: Params, images: Array, key: Key) -> tuple[Array, dict[str, Array]]:
        key_pick, key_augment, key_colour, key_latent = jax.random.split(key, 4)
        pick = jax.random.choice(key_pick, images.shape[0], (training.batch_size,), replace=False)
        batch = flip_and_shift(key_augment, images[pick] / 255.0)
        batch = jitter_colours(key_colour, batch)
        mean, logvar = sd.encode_moments(vae, params, batch)
        latents = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key_latent, mean.shape)
        error = 2.0 * (sd.decode_raw(vae, params, latents) - batch)  # in [-1, 1], the networks' own range
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
    mean, _ = jax.jit(lambda p, x: sd.encode_moments(vae, p, x))(
        params, jnp.asarray(images[:512] / 255.0, jnp.float32)
    )
    return params, float(1.0 / jnp.std(mean))
