"""Train a tracker of things, a judge or a reward of clips, on rendered frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rats_jax.networks.tracker import Tracker
from rats_jax.pretraining.corrupt import blend_and_spoil
from rats_jax.pretraining.fit import fit_as
from rats_jax.types import Array, Key, Params


class Frames(NamedTuple):
    """Frames and what they show.

    Attributes:
        images: [B, H, W, 3] in [0, 1].
        things, grounds: [B] int32.
        places: [B, 3], as of `Sighting`.
    """

    images: Array
    things: Array
    grounds: Array
    places: Array


def train_tracker(
    data: Any,
    draw_fn: Callable[[Any, Key, int], Frames],
    config: dict[str, Any],
    training: Any,
    *,
    seed: int,
    name: str,
    state_file: Path | None = None,
) -> Params:
    """Fit things and grounds by cross-entropy, places by Huber's loss, on clean, spoilt and mixed frames.

    A blend of two frames shows no thing, so that one in which a thing is only hinted at does not pass.

    Args:
        data: what `draw_fn` draws from, kept on the device.
        draw_fn: (data, key, B) -> a batch.
        config: of the `Tracker`.
        training: num_updates, batch_size, learning_rate, ema_decay, and as of `blend_and_spoil`.
        seed: of initialisation and draws.
        name, state_file: see `fit`.

    Returns:
        Averaged weights.
    """
    tracker = Tracker.from_config(config)
    params = jax.jit(tracker.init_params)(jax.random.key(seed))

    def loss_fn(params: Params, data: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        keys = jax.random.split(key, 5)
        drawn = draw_fn(data, keys[0], training.batch_size)
        images, is_blend = blend_and_spoil(keys[1:], drawn.images, training)
        things = jnp.where(is_blend, tracker.num_classes, drawn.things)
        seen: Any = tracker.apply({"params": params}, images)
        entropy = optax.softmax_cross_entropy_with_integer_labels
        of_ground = jnp.where(is_blend, 0.0, entropy(seen.ground, drawn.grounds))
        of_place = 100.0 * optax.huber_loss(seen.place, drawn.places, delta=0.05).sum(axis=-1)
        loss = entropy(seen.thing, things) + of_ground + jnp.where(is_blend, 0.0, of_place)
        off = jnp.max(jnp.abs(seen.place - drawn.places), axis=-1)
        metrics: dict[str, Array] = {
            "right": jnp.mean(jnp.argmax(seen.thing, axis=-1) == things),
            "ground": jnp.mean(jnp.argmax(seen.ground, axis=-1) == drawn.grounds),
            "pixels_off": tracker.image_size * jnp.mean(jnp.where(is_blend, 0.0, off)),
        }
        return loss.mean(), metrics

    return fit_as(training, loss_fn, params, data, seed=seed + 1, name=name, state_file=state_file)
