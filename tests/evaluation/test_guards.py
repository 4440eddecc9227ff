"""Guards against slow loops and pictures whose answer is known."""

import colorsys

import chex
import jax
import numpy as np
import pytest

from rats_jax.evaluation import guards


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(size=(3, 5, 6, 3)).astype(np.float32)


@pytest.mark.parametrize("jit", [False, True])
def test_saturation_is_that_of_hsv(images, jit):
    images[0, 0, 0] = 0.0  # black, whose saturation is 0 by definition
    function = jax.jit(guards.saturation) if jit else guards.saturation
    expected = [np.mean([colorsys.rgb_to_hsv(*map(float, p))[1] for p in i.reshape(-1, 3)]) for i in images]
    chex.assert_trees_all_close(function(images), np.float32(expected), rtol=1e-5)


def test_colourfulness_is_that_of_hasler_and_suesstrunk(images):
    expected = []
    for image in images.astype(np.float64):
        rg = image[..., 0] - image[..., 1]
        yb = 0.5 * (image[..., 0] + image[..., 1]) - image[..., 2]
        spread, strength = np.hypot(rg.std(), yb.std()), np.hypot(rg.mean(), yb.mean())
        expected.append(spread + 0.3 * strength)
    chex.assert_trees_all_close(guards.colourfulness(images), np.float32(expected), rtol=1e-5)
    grey = np.repeat(images[..., :1], 3, axis=-1)
    np.testing.assert_allclose(guards.colourfulness(grey), 0.0, atol=1e-6)


def test_motion_is_the_mean_step_between_frames():
    videos = np.random.default_rng(1).uniform(size=(2, 4, 5, 6, 3)).astype(np.float32)
    expected = [np.mean([np.abs(v[t + 1] - v[t]).mean() for t in range(3)]) for v in videos]
    chex.assert_trees_all_close(guards.motion(videos), np.float32(expected), rtol=1e-5)
    np.testing.assert_array_equal(guards.motion(np.repeat(videos[:, :1], 3, axis=1)), 0.0)
    with pytest.raises(ValueError, match="videos has 1 frames, expected at least 2"):
        guards.motion(videos[:, :1])


def test_edge_density_is_the_mean_slope_of_the_luma(images):
    expected = []
    for image in images.astype(np.float64):
        luma = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
        slopes = [
            np.hypot((luma[y + 1, x] - luma[y - 1, x]) / 2, (luma[y, x + 1] - luma[y, x - 1]) / 2)
            for y in range(1, 4)
            for x in range(1, 5)
        ]
        expected.append(np.mean(slopes))
    chex.assert_trees_all_close(guards.edge_density(images), np.float32(expected), rtol=1e-5)
    ramp = np.broadcast_to(np.linspace(0, 1, 9)[None, None, :, None], (1, 5, 9, 3)).astype(np.float32)
    np.testing.assert_allclose(guards.edge_density(ramp), 1 / 8, rtol=1e-5)


def test_diversity_is_the_mean_distance_of_pairs_and_zero_where_the_seed_does_not_matter():
    images = np.random.default_rng(1).uniform(size=(2, 3, 4, 4, 3)).astype(np.float32)
    images[1] = images[1, :1]
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([np.sqrt(np.mean((images[0, i] - images[0, j]) ** 2)) for i, j in pairs])
    chex.assert_trees_all_close(guards.diversity(images), np.float32([expected, 0.0]), rtol=1e-5)
    with pytest.raises(ValueError, match="1 seeds of each prompt, expected at least 2"):
        guards.diversity(images[:, :1])
