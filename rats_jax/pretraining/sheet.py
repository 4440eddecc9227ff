"""A sheet of what a text-to-image pipeline draws, prompt by prompt."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from rats_jax.diffusion.grid import make_grid
from rats_jax.diffusion.guidance import with_guidance
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import ddim_step
from rats_jax.diffusion.schedule import get_prediction_type
from rats_jax.pipelines.base import Pipeline
from rats_jax.report.figures import draw_grid


def draw_samples(pipeline: Pipeline, prompts: list[str], settings: Any, *, seed: int) -> Image.Image:
    """Draw one picture of each of the first prompts of a shuffled list.

    Args:
        pipeline: the model.
        prompts: texts to choose from.
        settings: num_images, columns, num_steps and guidance_scale.
        seed: of the choice and of the noise.

    Returns:
        The sheet, each picture with its prompt.
    """
    order = np.random.default_rng(seed).permutation(len(prompts))[: settings.num_images]
    chosen = [prompts[i] for i in order]
    noise = jax.random.normal(jax.random.key(seed), (len(chosen), *pipeline.latent_shape), jnp.float32)
    sample = functools.partial(
        rollout,
        with_guidance(pipeline.denoise_fn, guidance_scale=settings.guidance_scale),
        grid=make_grid(pipeline.scheduler_config, settings.num_steps),
        prediction_type=get_prediction_type(pipeline.scheduler_config),
        step_fn=ddim_step,
        gradient_steps=settings.num_steps,
        remat="none",
        unroll=False,
    )

    @jax.jit
    def draw(weights: Any, ids: jax.Array, noise: jax.Array) -> jax.Array:
        unet, text_encoder, decoder = weights
        latents = sample(unet, noise, pipeline.encode_fn(text_encoder, ids)).latents
        return pipeline.decode_fn(decoder, latents)

    weights = pipeline.unet, pipeline.text_encoder, pipeline.decoder
    images = np.asarray(draw(weights, pipeline.tokenize(chosen), noise))
    return draw_grid(images, chosen, columns=settings.columns)
