"""Clips: an emoji that moves as the prompt says, on a coloured ground.

A prompt names a thing, what it does and sometimes the colour of the ground; where it is, how large, how far
it goes, which way it looks, and a ground that is not named are drawn anew for every clip. Clips are made
where they are used, inside jitted functions, from one graphic of each thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.pretraining.scenes import COLOURS, IMAGE_SIZE, NOTHING, Noun, shade, with_article
from rats_jax.rewards import tracker
from rats_jax.types import Array, Key

NUM_FRAMES = 9

MOTIONS: Mapping[str, str] = dict(
    zip(
        tracker.MOTIONS,
        ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks"),
        strict=True,
    )
)
"""What a thing does, as its judge numbers it, and what prompts call it."""

# Pixels: of a thing that moves, how far it goes, of one that grows before it does.
_SIZE, _WAY, _SMALL = (11.0, 15.0), (9.0, 14.0), (7.0, 10.0)
_GROWTH = (1.8, 2.4)


class ClipPrompts(NamedTuple):
    """All prompts of the world, in one order.

    Attributes:
        texts: N.
        things: [N] int32, what each names.
        motions: [N] int32, places in `MOTIONS`.
        colours: [N] int32, of the ground, `NOTHING` where it is open.
        heldout: [N] bool, things whose motion no training sees.
    """

    texts: list[str]
    things: np.ndarray
    motions: np.ndarray
    colours: np.ndarray
    heldout: np.ndarray

    def choose(self, rows: np.ndarray) -> ClipPrompts:
        """Give some of them; `rows` is a mask or indices."""
        chosen = np.arange(len(self.texts))[rows]
        return ClipPrompts([self.texts[i] for i in chosen], *(values[chosen] for values in self[1:]))


class Shown(NamedTuple):
    """What clips show: things, motions (places in `MOTIONS`) and grounds, [B] int32 each."""

    things: Array
    motions: Array
    grounds: Array


class Track(NamedTuple):
    """Where the thing of each frame is, [B, T] float32 in pixels.

    Attributes:
        row, column: of its centre.
        size: of its side.
    """

    row: Array
    column: Array
    size: Array


def make_prompts(nouns: Sequence[Noun], *, heldout_share: float, seed: int) -> ClipPrompts:
    """Write every prompt of the world.

    Args:
        nouns: the things.
        heldout_share: of the motions of things, each held out on every ground.
        seed: of the choice of those.

    Returns:
        The prompts, thing by thing and motion by motion.
    """
    drawn = np.random.default_rng(seed).random((len(nouns), len(MOTIONS))) < heldout_share
    grounds = [("", NOTHING), *((f" on {name}", i) for i, name in enumerate(COLOURS))]
    rows = [
        (f"{with_article(noun.one)} {does}{where}", i, j, colour, drawn[i, j])
        for i, noun in enumerate(nouns)
        for j, does in enumerate(MOTIONS.values())
        for where, colour in grounds
    ]
    texts, things, motions, colours, heldout = zip(*rows, strict=True)
    things, motions, colours = (np.array(values, np.int32) for values in (things, motions, colours))
    return ClipPrompts(list(texts), things, motions, colours, np.array(heldout))


def draw_tracks(key: Key, motions: Array) -> Track:
    """Draw where things are, for motions [B]: they stay inside the picture, and move or grow evenly."""
    keys = jax.random.split(key, 6)
    batch, names = motions.shape, list(MOTIONS)

    def is_any(*which: str) -> Array:
        return jnp.isin(motions, jnp.array([names.index(name) for name in which]))

    def uniform(key: Key, ends: tuple[float, float]) -> Array:
        return jax.random.uniform(key, batch, minval=ends[0], maxval=ends[1])

    time = jnp.linspace(0.0, 1.0, NUM_FRAMES)
    backwards = is_any("left", "up", "smaller")[:, None]
    time = jnp.where(backwards, 1.0 - time, time)

    grows = is_any("larger", "smaller")
    small = uniform(keys[0], _SMALL)
    sizes = jnp.where(grows, small, uniform(keys[1], _SIZE))
    last = jnp.where(grows, small * uniform(keys[2], _GROWTH), sizes)
    size = sizes[:, None] * (last / sizes)[:, None] ** time
    drawn = uniform(keys[3], _WAY)

    def along(key: Key, moves: Array) -> Array:
        """Draw the centre on one axis: a thing and its way fit between the edges."""
        way = jnp.where(moves, drawn, 0.0)
        start = jax.random.uniform(key, batch) * (IMAGE_SIZE - (last + way)) + last / 2.0
        return start[:, None] + way[:, None] * time

    row = along(keys[4], is_any("up", "down"))
    return Track(row, along(keys[5], is_any("left", "right")), size)


def render(key: Key, graphics: Array, shown: Shown) -> tuple[Array, Track]:
    """Draw clips; places, sizes, ways, shades and mirror images are random.

    Args:
        key: typed key.
        graphics: [N, G, G, 4] uint8, colours multiplied by alpha.
        shown: of B clips.

    Returns:
        [B, T, 32, 32, 3] float32 in [0, 1], and where their things are.
    """
    key_track, key_shade, key_mirror = jax.random.split(key, 3)
    grounds = shade(key_shade, jnp.asarray(list(COLOURS.values()))[shown.grounds])
    track = draw_tracks(key_track, shown.motions)
    pixels = graphics[shown.things] / 255.0
    mirrored = jax.random.bernoulli(key_mirror, 0.5, (pixels.shape[0], 1, 1, 1))
    pixels = jnp.where(mirrored, pixels[:, :, ::-1], pixels)
    rows = _resample(track.row, track.size, pixels.shape[1])
    columns = _resample(track.column, track.size, pixels.shape[2])
    drawn = jnp.einsum("btyi,btxj,bijc->btyxc", rows, columns, pixels, optimize=True)
    clips = grounds[:, None] * (1.0 - drawn[..., 3:]) + drawn[..., :3]
    return jnp.clip(clips, 0.0, 1.0), track  # of rounding


def _resample(centre: Array, size: Array, length: int) -> Array:
    """Weigh a graphic's `length` pixels for each pixel of an axis: [B, T] -> [B, T, 32, length]."""
    scale = (length / size)[..., None, None]
    pixels = jnp.arange(IMAGE_SIZE)[:, None] + 0.5
    source = (pixels - centre[..., None, None]) * scale + length / 2.0 - 0.5
    # A tent as wide as a pixel of the picture; around it the graphic is empty.
    width = jnp.maximum(scale, 1.0)
    margin = int(length / _SMALL[0]) + 1
    tent = jnp.maximum(0.0, 1.0 - jnp.abs(source - jnp.arange(-margin, length + margin)) / width)
    share = tent / jnp.maximum(tent.sum(axis=-1, keepdims=True), 1e-6)
    return share[..., margin:-margin]


def vary(key: Key, shown: Shown, named: Array, num_nouns: int) -> Shown:
    """Change one thing of each clip, so that it no longer is what its prompt asks for.

    Args:
        key: typed key.
        shown: of B clips.
        named: [B] int32, the ground that the prompt names, `NOTHING` where it is open.
        num_nouns: of the world.

    Returns:
        Another thing, another motion (half of the clips) or, where the prompt names it, another ground.
    """
    key_kind, key_thing, key_motion, key_ground = jax.random.split(key, 4)
    batch = shown.things.shape

    def other(key: Key, values: Array, count: int) -> Array:
        return (values + jax.random.randint(key, batch, 1, count)) % count

    draw = jax.random.uniform(key_kind, batch)
    ground = (draw > 0.75) & (named != NOTHING)
    motion, thing = draw < 0.5, (draw >= 0.5) & ~ground
    return Shown(
        jnp.where(thing, other(key_thing, shown.things, num_nouns), shown.things),
        jnp.where(motion, other(key_motion, shown.motions, len(MOTIONS)), shown.motions),
        jnp.where(ground, other(key_ground, shown.grounds, len(COLOURS)), shown.grounds),
    )
