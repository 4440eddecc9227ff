"""Clips: things that do what their prompts say, and ways to spoil them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.pretraining.clips import (
    MOTIONS,
    NUM_FRAMES,
    Shown,
    draw_tracks,
    make_prompts,
    render,
    vary,
)
from rats_jax.pretraining.corrupt_clips import CLIP_CORRUPTIONS
from rats_jax.pretraining.scenes import COLOURS, NOTHING, Noun
from rats_jax.rewards import tracker

NOUNS = [Noun("fish", "fishes", "fish"), Noun("owl", "owls", "owl"), Noun("ball", "balls", "soccer ball")]
NAMES = list(MOTIONS)


def test_prompts_name_thing_motion_and_sometimes_the_ground():
    prompts = make_prompts(NOUNS, heldout_share=0.5, seed=0)
    assert len(prompts.texts) == len(set(prompts.texts)) == 3 * 6 * (1 + len(COLOURS))
    row = prompts.texts.index("an owl moves up on red")
    shown = NOUNS[prompts.things[row]].one, NAMES[prompts.motions[row]], list(COLOURS)[prompts.colours[row]]
    assert shown == ("owl", "up", "red")
    assert prompts.colours[prompts.texts.index("a fish grows")] == NOTHING
    # A motion of a thing is held out on every ground or on none.
    held = {}
    for thing, motion, heldout in zip(prompts.things, prompts.motions, prompts.heldout, strict=True):
        held.setdefault((thing, motion), set()).add(bool(heldout))
    assert all(len(values) == 1 for values in held.values())
    assert {True} in held.values() and {False} in held.values()
    # The judge reads all of them as they are meant.
    asked = tracker.parse_prompts(
        prompts.texts, [noun.one for noun in NOUNS], list(MOTIONS.values()), list(COLOURS)
    )
    for found, meant in zip(asked, (prompts.things, prompts.motions, prompts.colours), strict=True):
        np.testing.assert_array_equal(found, meant)


def test_tracks_do_what_the_motion_says_and_stay_inside():
    motions = jnp.repeat(jnp.arange(6), 200)
    track = draw_tracks(jax.random.key(0), motions)
    for centre in (track.row, track.column):
        assert centre.shape == (1200, NUM_FRAMES)
        assert float(jnp.min(centre - track.size / 2)) >= -1e-4
        assert float(jnp.max(centre + track.size / 2)) <= 32 + 1e-4
    changes = {name: np.asarray(values[:, -1] - values[:, 0]) for name, values in track._asdict().items()}
    for i, name in enumerate(NAMES):
        rows = slice(200 * i, 200 * (i + 1))
        axis, sign = {
            "left": ("column", -1),
            "right": ("column", 1),
            "up": ("row", -1),
            "down": ("row", 1),
            "larger": ("size", 1),
            "smaller": ("size", -1),
        }[name]
        for what, change in changes.items():
            if what == axis:
                assert np.all(sign * change[rows] > 5)
            else:
                np.testing.assert_allclose(change[rows], 0, atol=1e-4)
    # The judge's rule, given these places, finds every one of them.
    places = jnp.stack([track.row, track.column, track.size], axis=-1) / 32
    np.testing.assert_array_equal(tracker.find_motion(places), motions)


@pytest.fixture(scope="module")
def graphics():
    """A square, a cross and a disc, each of its own colour."""
    y, x = np.mgrid[:28, :28]
    shapes = [np.ones((28, 28)), (abs(x - 13.5) < 4) | (abs(y - 13.5) < 4), np.hypot(x - 13.5, y - 13.5) < 13]
    colours = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    alpha = np.array(shapes, float)[..., None]
    pictures = np.concatenate([alpha * colours[:, None, None], alpha], axis=-1)
    return jnp.asarray(np.round(255 * pictures), jnp.uint8)


def test_a_clip_shows_the_thing_where_its_track_says(graphics):
    shown = Shown(jnp.zeros(6, jnp.int32), jnp.arange(6), jnp.full(6, list(COLOURS).index("blue")))
    clips, track = render(jax.random.key(0), graphics, shown)
    assert clips.shape == (6, NUM_FRAMES, 32, 32, 3)
    assert 0 <= float(clips.min()) and float(clips.max()) <= 1
    # A red square: the share of red among the pixels, its mean place and its area.
    red = np.asarray(clips[..., 0] - clips[..., 2])
    weight = np.clip((red + 0.5) / 1.5, 0, 1) * (red > 0)
    area = weight.sum((2, 3))
    row = (weight * (np.arange(32) + 0.5)[:, None]).sum((2, 3)) / area
    column = (weight * (np.arange(32) + 0.5)).sum((2, 3)) / area
    np.testing.assert_allclose(row, track.row, atol=0.4)
    np.testing.assert_allclose(column, track.column, atol=0.4)
    np.testing.assert_allclose(np.sqrt(area), track.size, rtol=0.1)


def test_what_is_varied_is_no_longer_what_was_asked_for():
    count = 3000
    shown = Shown(jnp.arange(count) % 3, jnp.arange(count) % 6, jnp.arange(count) % 8)
    named = jnp.where(jnp.arange(count) % 2 == 0, shown.grounds, NOTHING)
    others = vary(jax.random.key(0), shown, named, 3)
    differs = np.stack([np.asarray(a != b) for a, b in zip(shown, others, strict=True)])
    np.testing.assert_array_equal(differs.sum(axis=0), 1)
    assert not np.any(differs[2] & (np.asarray(named) == NOTHING))
    assert 0.45 < differs[1].mean() < 0.55 and 0.08 < differs[2].mean() < 0.17
    for values, most in zip(others, (3, 6, 8), strict=True):
        assert int(values.min()) == 0 and int(values.max()) == most - 1


@pytest.mark.parametrize("name", sorted(CLIP_CORRUPTIONS))
def test_a_clip_is_spoilt_by_degrees(graphics, name):
    shown = Shown(jnp.arange(4) % 3, jnp.arange(4), jnp.arange(4))
    clips, _ = render(jax.random.key(0), graphics, shown)
    corrupt = jax.jit(CLIP_CORRUPTIONS[name])
    damage = []
    for severity in (0.0, 0.3, 1.0):
        after = corrupt(jax.random.key(1), clips, jnp.full(4, severity))
        assert after.shape == clips.shape and 0 <= float(after.min()) <= float(after.max()) <= 1
        damage.append(float(jnp.mean(jnp.abs(after - clips))))
    assert damage[0] < 1e-6 < damage[1] < damage[2]


def test_a_slow_clip_stands_still_at_last(graphics):
    shown = Shown(jnp.zeros(2, jnp.int32), jnp.arange(2), jnp.arange(2))
    clips, _ = render(jax.random.key(0), graphics, shown)
    still = CLIP_CORRUPTIONS["slow"](jax.random.key(1), clips, jnp.ones(2))
    np.testing.assert_array_equal(still, jnp.broadcast_to(still[:, :1], still.shape))
    assert all(any(np.array_equal(still[i, 0], frame) for frame in clips[i]) for i in range(2))
