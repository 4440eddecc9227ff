"""A sheet of what a text-to-image pipeline draws, prompt by prompt."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from rats_jax.diffusion.draw import make_draw_fn
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import ddim_step
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
    rollout_fn = functools.partial(
        rollout,
        pipeline.guided_fn(settings.guidance_scale),
        grid=pipeline.grid_fn(settings.num_steps, ""),
        prediction_type=pipeline.prediction_type,
        step_fn=ddim_step,
        gradient_steps=settings.num_steps,
        remat="none",
        unroll=False,
    )
    draw = jax.jit(make_draw_fn(pipeline.encode_fn, rollout_fn, pipeline.decode_fn, name="samples"))
    weights = pipeline.network, pipeline.text_encoder, pipeline.decoder
    _, images = draw(*weights, pipeline.tokenize(chosen), noise)
    return draw_grid(np.asarray(images), chosen, columns=settings.columns)
