"""Ways to spoil a clip by degrees: those of pictures, the same on every frame, and those of motion.

Every corruption is (key, clips [B, T, H, W, 3] in [0, 1], severity [B] in [0, 1]) -> clips in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rats_jax.pretraining.corrupt import CORRUPTIONS, Corruption
from rats_jax.types import Array, Key


def on_every_frame(corrupt: Corruption) -> Corruption:
    """Spoil all frames of a clip with the damage of one."""

    def corrupt_clips(key: Key, clips: Array, severity: Array) -> Array:
        return jax.vmap(lambda frames: corrupt(key, frames, severity), in_axes=1, out_axes=1)(clips)

    return corrupt_clips


def slow(key: Key, clips: Array, severity: Array) -> Array:
    """Move less, about a random moment; at severity 1 the clip stands still."""
    batch, count = clips.shape[:2]
    about = jax.random.uniform(key, (batch, 1), maxval=count - 1.0)
    moments = about + (1.0 - severity[:, None]) * (jnp.arange(count) - about)
    nearest = jnp.clip(jnp.int32(jnp.ceil(moments - 0.5)), 0, count - 1)
    return jnp.take_along_axis(clips, nearest[:, :, None, None, None], axis=1)


def shake(key: Key, clips: Array, severity: Array) -> Array:
    """Displace each frame by its own up to six pixels, around the edges."""
    batch, count, height, width, _ = clips.shape
    moves = jax.random.uniform(key, (batch, count, 2), minval=-6.0, maxval=6.0) * severity[:, None, None]
    rows, columns = jnp.moveaxis(jnp.int32(jnp.round(moves)), -1, 0)
    y = (jnp.arange(height) - rows[..., None]) % height
    x = (jnp.arange(width) - columns[..., None]) % width
    clips = jnp.take_along_axis(clips, y[:, :, :, None, None], axis=2)
    return jnp.take_along_axis(clips, x[:, :, None, :, None], axis=3)


def swap_frames(key: Key, clips: Array, severity: Array) -> Array:
    """Replace frames with those of another clip, each with probability 0.6 * severity."""
    drawn = jax.random.uniform(key, clips.shape[:2]) < 0.6 * severity[:, None]
    return jnp.where(drawn[..., None, None, None], jnp.roll(clips, 1, axis=0), clips)


CLIP_CORRUPTIONS: Mapping[str, Corruption] = {
    **{name: on_every_frame(corrupt) for name, corrupt in CORRUPTIONS.items()},
    "slow": slow,
    "shake": shake,
    "swap_frames": swap_frames,
}
