"""Train the miniature UNet and its text encoder together on latents of the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.diffusion.prediction import to_target
from rats_jax.diffusion.schedule import add_noise, make_alphas_cumprod
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.clip_text import CLIPTextModel
from rats_jax.networks.unet_2d import UNet2DConditionModel
from rats_jax.pretraining.fit import fit_as
from rats_jax.pretraining.vae import encode
from rats_jax.types import Array, Key, Params


def shifted_latents(
    vae: AutoencoderKL, params: Params, images: np.ndarray, *, scaling_factor: float
) -> Array:
    """Encode every picture mirrored or not and moved by up to one pixel.

    Args:
        vae: the autoencoder.
        params: its weights.
        images: [N, H, W, 3] uint8.
        scaling_factor: of the latents.

    Returns:
        [N, 18, h, w, C] float32, scaled.
    """
    to_latents = jax.jit(lambda p, x: encode(vae, p, x)[0] * scaling_factor)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    height, width = images.shape[1:3]
    variants = []
    for mirrored in (padded, padded[:, :, ::-1]):
        for i in range(3):
            for j in range(3):
                moved = np.ascontiguousarray(mirrored[:, i : i + height, j : j + width])
                variants.append(to_latents(params, jnp.asarray(moved / 255.0, jnp.float32)))
    return jnp.stack(variants, axis=1)


def train_text_to_image(
    latents: Array,
    input_ids: np.ndarray,
    uncond_ids: np.ndarray,
    unet_config: dict[str, Any],
    text_config: dict[str, Any],
    scheduler_config: dict[str, Any],
    training: Any,
    *,
    seed: int,
    state_file: Path | None = None,
) -> tuple[Params, Params]:
    """Minimise the squared error of the network's output at uniformly drawn timesteps.

    Args:
        latents: [N, A, h, w, C] float32, A augmented versions of each picture.
        input_ids: [N, L] int32, the tokens of each caption.
        uncond_ids: [L] int32, the tokens of the empty prompt.
        unet_config: a diffusers UNet2DConditionModel config.
        text_config: a transformers CLIPTextConfig.
        scheduler_config: a diffusers DDIMScheduler config.
        training: num_updates, batch_size, learning_rate, ema_decay, prompt_dropout.
        seed: of initialisation and draws.
        state_file: see `fit`.

    Returns:
        Averaged weights of the UNet and of the text encoder.
    """
    unet = UNet2DConditionModel.from_config(unet_config)
    text_encoder = CLIPTextModel.from_config(text_config)
    key_unet, key_text = jax.random.split(jax.random.key(seed))
    params = {
        "unet": jax.jit(unet.init_params)(key_unet),
        "text_encoder": jax.jit(text_encoder.init_params)(key_text),
    }
    alphas_cumprod = jnp.asarray(
        make_alphas_cumprod(
            beta_schedule=scheduler_config["beta_schedule"],
            num_train_timesteps=scheduler_config["num_train_timesteps"],
            beta_start=scheduler_config["beta_start"],
            beta_end=scheduler_config["beta_end"],
            rescale_betas_zero_snr=scheduler_config["rescale_betas_zero_snr"],
        ),
        jnp.float32,
    )
    batch_size = training.batch_size

    def loss_fn(params: Params, data: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        key_pick, key_variant, key_time, key_noise, key_drop = jax.random.split(key, 5)
        pick = jax.random.choice(key_pick, data["latents"].shape[0], (batch_size,), replace=False)
        variant = jax.random.randint(key_variant, (batch_size,), 0, data["latents"].shape[1])
        denoised = data["latents"][pick, variant]
        drop = jax.random.bernoulli(key_drop, training.prompt_dropout, (batch_size, 1))
        ids = jnp.where(drop, data["uncond_ids"][None], data["input_ids"][pick])
        # Stratified over the batch: every noise level is seen in every update.
        offset = jax.random.uniform(key_time)
        share = (jnp.arange(batch_size) + offset) / batch_size
        timesteps = jnp.int32(share * alphas_cumprod.shape[0])
        abar = alphas_cumprod[timesteps][:, None, None, None]
        signal_rate, noise_rate = jnp.sqrt(abar), jnp.sqrt(1.0 - abar)
        noise = jax.random.normal(key_noise, denoised.shape)
        noisy = add_noise(denoised, noise, signal_rate, noise_rate)
        target = to_target(
            denoised, noise, signal_rate, noise_rate, prediction_type=scheduler_config["prediction_type"]
        )
        embeds: Any = text_encoder.apply({"params": params["text_encoder"]}, ids)
        output: Any = unet.apply({"params": params["unet"]}, noisy, timesteps, embeds.last)
        return jnp.mean(jnp.square(output - target)), {}

    data = {"latents": latents, "input_ids": jnp.asarray(input_ids), "uncond_ids": jnp.asarray(uncond_ids)}
    params = fit_as(training, loss_fn, params, data, seed=seed + 1, name="unet", state_file=state_file)
    return params["unet"], params["text_encoder"]
