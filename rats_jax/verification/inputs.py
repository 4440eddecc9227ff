"""Inputs that both sides compute on, and what either gives for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from rats_jax.pipelines.base import Pipeline
from rats_jax.types import PromptEmbeds

PROMPTS = (
    "a photo of a red fox in the snow",
    "",
    "two red apples, a green pear & 3 blue plums on a wooden table, " * 8 + "in the light of the evening",
)
"""Prompts that the text encoders read: a usual one, none, and one that CLIP's tokenizer cuts."""
NUM_STEPS = 4
"""Steps of the sample."""
# Parts of the number of training timesteps. Pure noise, the middle, nearly data, all of which bfloat16 has
# exactly where that number is 1000: PyTorch's FLUX rounds them.
_LEVELS = (1.0, 0.5, 1 / 64)
_DECODED_FRAMES = 2

NotifyFn = Callable[[str], None]
"""Is told what is computed next."""


@dataclass(frozen=True)
class Inputs:
    """What both sides compute on.

    Attributes:
        latents: [1, h, w, C] float32, of a video [1, t, h, w, C], standard normal: what the network reads at
            every level, and the noise that the sample starts from.
        decoded: the latents that the decoder reads by themselves; of a video the first two.
        timesteps: of the levels at which the network is compared.
        timestep_spacing: of the sample; '' is the pipeline's own.
        guidance_scale: of the sample.
        size: (height, width) of the picture, pixels.
        num_frames: of the video, 1 of a picture.
        prompt_length: tokens of a prompt that the T5 encoder reads, 0 without one.
        flow: whether the model is a flow.
    """

    latents: np.ndarray
    decoded: np.ndarray
    timesteps: tuple[float, ...]
    timestep_spacing: str
    guidance_scale: float
    size: tuple[int, int]
    num_frames: int
    prompt_length: int
    flow: bool


class Outputs(NamedTuple):
    """What one side gives.

    Attributes:
        embeds: of PROMPTS, with and without them, a pytree of [P, ...] float32.
        levels: of the network at each timestep, float32 like the latents, on the embeddings of PROMPTS[0]
            that PyTorch's text encoders gave.
        decoded: about [0, 1], not clipped, [1, H, W, 3] or [1, T, H, W, 3] float32.
        images: the sample, of PROMPTS[0] as the side itself encodes it, in [0, 1].
    """

    embeds: PromptEmbeds
    levels: tuple[np.ndarray, ...]
    decoded: np.ndarray
    images: np.ndarray


def draw_inputs(pipeline: Pipeline, *, num_timesteps: int, prompt_length: int, dtype: Any) -> Inputs:
    """Draw the inputs of a pipeline, the same on every machine.

    Args:
        pipeline: opened; its weights are not read.
        num_timesteps: of its training.
        prompt_length: as of `Inputs`.
        dtype: of the networks; the latents are numbers that it has.
    """
    flow = pipeline.prediction_type == "flow"
    shape = (1, *pipeline.latent_shape)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype).astype(np.float32)
    *frames, height, width, _ = pipeline.image_shape()
    timesteps = [level * num_timesteps for level in _LEVELS]
    return Inputs(
        latents=noise,
        decoded=noise[:, :_DECODED_FRAMES] if frames else noise,
        timesteps=tuple(timesteps if flow else [min(int(t), num_timesteps - 1) for t in timesteps]),
        timestep_spacing="" if flow or _lands_as_ddim(pipeline, num_timesteps) else "trailing",
        guidance_scale=pipeline.guidance_scale,
        size=(height, width),
        num_frames=frames[0] if frames else 1,
        prompt_length=prompt_length,
        flow=flow,
    )


def _lands_as_ddim(pipeline: Pipeline, num_timesteps: int) -> bool:
    """Tell whether PyTorch's DDIM has the pipeline's own timesteps, and lands on the next one of them.

    It lands on t - T // S, which is between two timesteps of 'linspace'.
    """
    own = pipeline.exports_own_spacing
    return own and bool(
        np.all(np.diff(pipeline.grid_fn(NUM_STEPS, "").timesteps) == -(num_timesteps // NUM_STEPS))
    )


def first_row(tree: Any) -> Any:
    """Take the first of [P, ...] of every leaf of a pytree, as [1, ...]."""
    return jax.tree.map(lambda leaf: leaf[:1], tree)
