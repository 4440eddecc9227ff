"""A reward as a function of pictures and prompts: what `rats_jax.load_reward` gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rats_jax.errors import expect
from rats_jax.parallel.environment import check_sums
from rats_jax.paths import expect_model
from rats_jax.rewards import find_reward
from rats_jax.student import arguments
from rats_jax.types import Array
from rats_jax.weights.stored import read_all


def load_reward(
    kind: str, path: str = "", *, dtype: str = "float32"
) -> Callable[[Any, str | Sequence[str]], Array]:
    """Load a reward as a function of pictures and prompts, compiled once for each shape of the pictures.

    Args:
        kind: of `rats_jax.rewards.REWARDS`, or FILE.py:NAME.
        path: folder, file or hub id of its weights; '' for the published ones.
        dtype: what its towers compute in: 'float32' or 'bfloat16'.

    Returns:
        score(images [B, H, W, 3] in [0, 1], prompts: B texts, or one) -> [B] float32, which can be
        differentiated in the images; of a reward of videos, videos [B, T, H, W, 3]. It raises ConfigError
        where the images have another shape, no floating-point numbers, or not a picture for each prompt. It
        is compiled already: within a `jax.jit` of yours its weights would become constants of the program.

    Raises:
        ConfigError: no such kind, path or dtype; as `rats_jax.parallel.environment.check_sums`.
        WeightsError: files are missing, or weights are missing, extra or mis-shaped.
    """
    arguments.check_dtype(dtype)
    reward = find_reward(kind)
    if path:
        expect_model(path, "path")
    check_sums()
    model = reward.load(path, dtype=jnp.dtype(dtype))
    params = jax.device_put(read_all(model.params))
    reward_fn = jax.jit(model.reward_fn)
    wanted = "[B, T, H, W, 3]" if reward.of_videos else "[B, H, W, 3]"

    def score(images: Any, prompts: str | Sequence[str]) -> Array:
        texts = arguments.prompts(prompts)
        images = jnp.asarray(images)
        fits = images.ndim == len(wanted.split(",")) and images.shape[-1] == 3
        expect(fits, "images.shape", images.shape, wanted)
        floats = jnp.issubdtype(images.dtype, jnp.floating)
        expect(floats, "images.dtype", images.dtype.name, "floating-point numbers in [0, 1]")
        expected = f"a text for each of the {len(images)} pictures"
        expect(len(texts) == len(images), "len(prompts)", len(texts), expected)
        return reward_fn(params, images.astype(jnp.float32), model.prepare(texts))

    return score
