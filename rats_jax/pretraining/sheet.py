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


def draw_prompts(
    pipeline: Pipeline, prompts: list[str], *, num_steps: int, guidance_scale: float, seed: int
) -> np.ndarray:
    """Draw a picture of each of B prompts, all at once: [B, H, W, 3] float32 in [0, 1]."""
    noise = jax.random.normal(jax.random.key(seed), (len(prompts), *pipeline.latent_shape), jnp.float32)
    rollout_fn = functools.partial(
        rollout,
        pipeline.guided_fn(guidance_scale),
        grid=pipeline.grid_fn(num_steps, ""),
        prediction_type=pipeline.prediction_type,
        step_fn=ddim_step,
        gradient_steps=num_steps,
        remat="none",
        unroll=False,
    )
    draw = jax.jit(make_draw_fn(pipeline.encode_fn, rollout_fn, pipeline.decode_fn, name="samples"))
    weights = pipeline.network, pipeline.text_encoder, pipeline.decoder
    _, images = draw(*weights, pipeline.tokenize(prompts), noise)
    return np.asarray(images)


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
    sampling = {"num_steps": settings.num_steps, "guidance_scale": settings.guidance_scale}
    return draw_grid(draw_prompts(pipeline, chosen, **sampling, seed=seed), chosen, columns=settings.columns)
