"""What the stages of text-to-scene draw their pictures from: the prompts of a config, by their shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.pretraining.scenes import (
    WORLD_SIZES,
    Noun,
    Prompts,
    Sizes,
    choose_grounds,
    load_graphics,
    make_prompts,
    render,
    sampling_weights,
)
from rats_jax.types import Array, Key


def all_prompts(config: Any) -> Prompts:
    """Write every prompt of a config's world."""
    return make_prompts(all_nouns(config), heldout_share=config.heldout_share, seed=config.seed)


def all_nouns(config: Any) -> list[Noun]:
    """Name the things of a config's world."""
    return [Noun(*noun) for noun in config.nouns]


def gather_data(
    config: Any, *, every: bool = False, kinds: Mapping[str, float] | None = None
) -> dict[str, Array]:
    """Gather what `draw_asked` draws from.

    `every` takes the combinations that are held out too; `kinds` are the shares of the kinds of prompts, None
    those of the config.
    """
    prompts = all_prompts(config)
    weights = sampling_weights(prompts, kinds or config.kinds)
    weights = weights if every else np.where(prompts.heldout, 0.0, weights)
    return {
        "graphics": jnp.asarray(load_graphics(all_nouns(config))),
        "objects": jnp.asarray(prompts.objects),
        "colours": jnp.asarray(prompts.colours),
        "ends": jnp.asarray(np.cumsum(weights) / weights.sum(), jnp.float32),
    }


def draw_asked(data: Any, key_prompt: Key, key_ground: Key, batch_size: int) -> tuple[Array, Array, Array]:
    """Draw prompts and what a picture of each shows: objects [B, 3], grounds [B], rows of the prompts [B]."""
    rows = jnp.searchsorted(data["ends"], jax.random.uniform(key_prompt, (batch_size,)))
    rows = jnp.minimum(rows, data["ends"].size - 1)
    return data["objects"][rows], choose_grounds(key_ground, data["colours"][rows]), rows


def draw_scenes(
    data: Any, keys: Key, batch_size: int, sizes_of: Sizes = WORLD_SIZES
) -> tuple[Array, Array, Array, Array]:
    """Draw prompts and a picture of each: images [B, 32, 32, 3], objects, grounds, rows of the prompts."""
    key_ground, key_picture = jax.random.split(keys[1])
    objects, grounds, rows = draw_asked(data, keys[0], key_ground, batch_size)
    return render(key_picture, data["graphics"], objects, grounds, sizes_of), objects, grounds, rows


def count_things(objects: Array, num_nouns: int) -> Array:
    """Count objects [B, 3] of each noun: [B, N] int32."""
    return jnp.sum(jax.nn.one_hot(objects, num_nouns, dtype=jnp.int32), axis=1)
