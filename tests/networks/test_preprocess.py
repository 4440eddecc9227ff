"""Resizing against PIL, the two ways of making a picture square, and their gradients."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rats_jax.networks.preprocess import (
    MEAN,
    STD,
    crop_to_square,
    crop_to_square_half_even,
    normalise,
    pad_to_square,
)


def photo(height, width):
    """Smooth shading with a few sharp edges and some grain, as a photograph."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / height
    waves = [np.sin(6 * x + 4 * y), np.cos(9 * x * y), np.sin(5 * y) * np.cos(7 * x)]
    image = 0.5 + 0.3 * np.stack(waves, axis=-1)
    image[height // 4 : height // 2, width // 3 : 2 * width // 3] = (0.9, 0.1, 0.2)
    image[(x - 0.7) ** 2 + (y - 0.7) ** 2 < 0.02] = (0.0, 0.3, 1.0)
    return np.uint8(255 * np.clip(image + 0.02 * rng.normal(size=image.shape), 0, 1))


def resized(pixels, width, height):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)) / 255


# Height and width, side, the rows and columns that PIL resizes to.
CROPS = [
    (96, 96, 40, 40, 40),
    (32, 32, 56, 56, 56),
    (60, 91, 40, 40, 60),
    (91, 60, 40, 60, 40),
    (8, 33, 8, 8, 33),
]
PADS = [
    (96, 96, 40, 40, 40),
    (60, 90, 40, 27, 40),
    (91, 60, 40, 40, 26),
    (10, 33, 8, 2, 8),
    (40, 20, 40, 40, 20),
]


@pytest.mark.parametrize(("height", "width", "side", "rows", "columns"), CROPS)
def test_the_middle_is_cut_out_of_what_pil_resizes(height, width, side, rows, columns):
    pixels = photo(height, width)
    top, left = (rows - side) // 2, (columns - side) // 2
    expected = resized(pixels, columns, rows)[top : top + side, left : left + side]
    actual = crop_to_square(jnp.asarray(pixels[None] / 255, jnp.float32), side)
    chex.assert_shape(actual, (1, side, side, 3))
    chex.assert_type(actual, jnp.float32)
    assert np.mean(np.abs(np.clip(actual[0], 0, 1) - expected)) < 0.002


@pytest.mark.parametrize(("height", "width", "side", "rows", "columns"), PADS)
def test_black_surrounds_what_pil_resizes(height, width, side, rows, columns):
    pixels = photo(height, width)
    top, left = (side - rows) // 2, (side - columns) // 2
    expected = np.zeros((side, side, 3))
    expected[top : top + rows, left : left + columns] = resized(pixels, columns, rows)
    actual = np.asarray(pad_to_square(jnp.asarray(pixels[None] / 255, jnp.float32), side)[0])
    assert np.mean(np.abs(np.clip(actual, 0, 1) - expected)) < 0.002
    margin = np.ones((side, side), bool)
    margin[top : top + rows, left : left + columns] = False
    assert not actual[margin].any()


def test_a_picture_of_the_right_size_comes_through_bit_for_bit():
    images = jnp.asarray(photo(24, 24)[None] / 255, jnp.float32)
    chex.assert_trees_all_equal(crop_to_square(images, 24), images)
    chex.assert_trees_all_equal(pad_to_square(images, 24), images)


def test_colours_are_normalised_by_hand():
    white = (1 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(normalise(jnp.ones((1, 2, 2, 3)))[0, 1, 1], white, rtol=1e-6)
    np.testing.assert_allclose(normalise(jnp.asarray(MEAN)), np.zeros(3), atol=1e-7)


@pytest.mark.parametrize("preprocess", [crop_to_square, pad_to_square])
def test_gradients_are_those_of_differences(preprocess):
    images = jnp.asarray(photo(21, 14)[None] / 255, jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8, 8, 3)), jnp.float32)
    chex.assert_numerical_grads(
        jax.jit(lambda x: jnp.sum(weights * jnp.square(preprocess(x, 8)))),
        (images,),
        order=1,
        atol=1e-2,
        rtol=1e-2,
    )


def resized_whole(images, side, halve):
    """The middle of the whole picture after its resize, as pictures that are no strips go."""
    _, height, width, _ = images.shape
    rows, columns = (side * edge // min(height, width) for edge in (height, width))
    top, left = halve(rows - side), halve(columns - side)
    images = jax.image.resize(images, (1, rows, columns, 3), "cubic", antialias=True)
    return images[:, top : top + side, left : left + side]


@pytest.mark.parametrize(("height", "width"), [(1, 400), (400, 1), (7, 331), (331, 7), (2, 33), (3, 49)])
@pytest.mark.parametrize(
    ("preprocess", "halve"),
    [(crop_to_square, lambda x: x // 2), (crop_to_square_half_even, lambda x: round(x / 2))],
)
def test_a_strip_is_cut_before_it_is_magnified_with_the_same_result(height, width, preprocess, halve):
    images = jnp.asarray(np.random.default_rng(0).random((1, height, width, 3)), jnp.float32)
    expected = resized_whole(images, 24, halve)
    np.testing.assert_allclose(preprocess(images, 24), expected, atol=2e-4)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (40, 30), (2, 32), (24, 24), (30, 600), (500, 25)])
def test_other_pictures_are_resized_whole_bit_for_bit(height, width):
    images = jnp.asarray(np.random.default_rng(0).random((1, height, width, 3)), jnp.float32)
    chex.assert_trees_all_equal(crop_to_square(images, 24), resized_whole(images, 24, lambda x: x // 2))


@pytest.mark.parametrize("preprocess", [crop_to_square, crop_to_square_half_even, pad_to_square])
@pytest.mark.parametrize("shape", [(1, 60000), (60000, 1), (2, 60001), (1, 2**18)])
def test_a_strip_asks_for_the_memory_of_its_pixels(preprocess, shape):
    """Its own and those of the square, three times at most; padded, also the weights of its resize."""
    images = jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
    needed = jax.jit(lambda x: preprocess(x, 224)).lower(images).compile().memory_analysis()
    pixels = 3 * 4 * (math.prod(shape) + 224**2)
    weights = 4 * 224 * max(shape) if preprocess is pad_to_square else 0
    assert needed.temp_size_in_bytes < 3 * pixels + weights
    actual = np.asarray(preprocess(jnp.full((1, *shape, 3), 0.5), 224))
    assert actual.shape == (1, 224, 224, 3) and np.isfinite(actual).all()
    np.testing.assert_allclose(actual[0, 111, 111], 0.5, atol=1e-3)
