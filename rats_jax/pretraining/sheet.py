"""A sheet of what a text-to-image pipeline draws, prompt by prompt."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from rats_jax.data.prompts import read_prompts
from rats_jax.diffusion.draw import make_draw_fn
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import ddim_step
from rats_jax.pipelines.base import OWN, Options, Pipeline
from rats_jax.pipelines.open import load_pipeline
from rats_jax.report.figures import draw_grid, save_picture


def make_drawer(
    pipeline: Pipeline, *, num_steps: int, guidance_scale: float
) -> Callable[[list[str], int], np.ndarray]:
    """Make a function (B prompts, seed) -> a picture or a video of each, drawn all at once.

    Args:
        pipeline: the model.
        num_steps: of the rollout.
        guidance_scale: of the model.

    Returns:
        The function; what it gives is [B, H, W, 3] or [B, T, H, W, 3] float32 in [0, 1].
    """
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

    def draw_prompts(prompts: list[str], seed: int) -> np.ndarray:
        noise = jax.random.normal(jax.random.key(seed), (len(prompts), *pipeline.latent_shape), jnp.float32)
        _, images = draw(*weights, pipeline.tokenize(prompts), noise)
        return np.asarray(images)

    return draw_prompts


def write_samples(config: Any, workdir: Path, options: Options = OWN) -> None:
    """Draw what a work directory's pipeline makes of some of its prompts: samples.png."""
    pipeline = load_pipeline(workdir / "pipeline", options=options)
    prompts = read_prompts(workdir / "prompts.txt")
    save_picture(draw_samples(pipeline, prompts, config.samples, seed=config.seed), workdir / "samples.png")


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
    draw = make_drawer(pipeline, num_steps=settings.num_steps, guidance_scale=settings.guidance_scale)
    return draw_grid(draw(chosen, seed), chosen, columns=settings.columns)
