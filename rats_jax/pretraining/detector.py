"""Train a detector of things and grounds on rendered scenes: a judge, apart from all rewards, or a reward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rats_jax.networks.detector import Detector
from rats_jax.pretraining.corrupt import blend_and_spoil
from rats_jax.pretraining.fit import fit_as
from rats_jax.types import Array, Key, Params

SceneFn = Callable[[Any, Key, int], tuple[Array, Array, Array]]
"""(data, key, B) -> images [B, H, W, 3] in [0, 1], counts [B, N] int32 and ground [B] int32."""


def train_detector(
    data: Any,
    scene_fn: SceneFn,
    config: dict[str, Any],
    training: Any,
    *,
    seed: int,
    name: str,
    state_file: Path | None = None,
) -> Params:
    """Minimise the cross-entropy of counts and ground, on clean and mildly spoilt pictures and on blends.

    A blend of two scenes shows neither: its counts are zero, so that a picture in which a thing is only
    hinted at does not pass.

    Args:
        data: what `scene_fn` draws from, kept on the device.
        scene_fn: draws pictures and what they show.
        config: of the `Detector`.
        training: num_updates, batch_size, learning_rate, ema_decay, and as of `blend_and_spoil`.
        seed: of initialisation and draws.
        name: of the progress bar.
        state_file: see `fit`.

    Returns:
        Averaged weights.
    """
    detector = Detector.from_config(config)
    params = jax.jit(detector.init_params)(jax.random.key(seed))

    def loss_fn(params: Params, data: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        keys = jax.random.split(key, 5)
        images, counts, ground = scene_fn(data, keys[0], training.batch_size)
        images, is_blend = blend_and_spoil(keys[1:], images, training)
        counts = jnp.where(is_blend[:, None], 0, counts)
        seen: Any = detector.apply({"params": params}, images)
        entropy = optax.softmax_cross_entropy_with_integer_labels
        of_counts = entropy(seen.counts, counts).sum(axis=-1)
        of_ground = jnp.where(is_blend, 0.0, entropy(seen.ground, ground))
        right = jnp.all(jnp.argmax(seen.counts, axis=-1) == counts, axis=-1)
        metrics = {"right": right.mean(), "ground": jnp.mean(jnp.argmax(seen.ground, axis=-1) == ground)}
        return of_counts.mean() + of_ground.mean(), metrics

    return fit_as(training, loss_fn, params, data, seed=seed + 1, name=name, state_file=state_file)
