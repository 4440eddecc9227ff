"""Augmentations: every result is one of the few that their definition allows."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.pretraining.augment import flip_and_shift, jitter_colours

BATCH = 200


def images(size=6):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.uniform(size=(BATCH, size, size, 3)), jnp.float32)


@pytest.mark.parametrize("max_shift", [0, 2])
def test_flips_and_shifts_over_white(max_shift):
    size, found = 6, set()
    result = np.asarray(
        jax.jit(flip_and_shift, static_argnames="max_shift")(jax.random.key(0), images(), max_shift=max_shift)
    )
    assert result.shape == (BATCH, size, size, 3) and result.dtype == np.float32
    for before, after in zip(np.asarray(images()), result, strict=True):
        matches = []
        for flip, dy, dx in itertools.product((1, -1), *[range(-max_shift, max_shift + 1)] * 2):
            moved = np.ones_like(before)
            for row, column in itertools.product(range(size), repeat=2):
                if 0 <= row + dy < size and 0 <= column + dx < size:
                    moved[row, column] = before[:, ::flip][row + dy, column + dx]
            if np.array_equal(moved, after):
                matches.append((flip, dy, dx))
        assert len(matches) == 1
        found.update(matches)
    assert len(found) >= 0.9 * 2 * (2 * max_shift + 1) ** 2


def test_colours_are_permuted_or_faded_for_some_only():
    before = images(2)
    after = jax.jit(jitter_colours)(jax.random.key(0), before)
    chex.assert_equal_shape([before, after])
    assert float(after.min()) >= 0 and float(after.max()) <= 1
    count = {"same": 0, "permuted": 0, "faded": 0}
    for b, a in zip(np.asarray(before), np.asarray(after), strict=True):
        scales = []
        for roll in range(3):
            rolled = np.roll(b, roll, axis=-1) - 0.5
            scale = np.sum((a - 0.5) * rolled) / np.sum(rolled**2)
            if np.allclose(a - 0.5, scale * rolled, atol=1e-5):
                scales.append((roll, scale))
        ((roll, scale),) = scales
        assert 0.4 - 1e-4 <= scale <= 1 + 1e-4
        count["permuted"] += roll != 0
        count["faded"] += scale < 0.999
        count["same"] += roll == 0 and scale > 0.999
    # A quarter, a quarter, and what neither met: 9 / 16, give or take four standard deviations.
    assert 26 <= count["permuted"] <= 74 and 26 <= count["faded"] <= 74 and 84 <= count["same"] <= 141
