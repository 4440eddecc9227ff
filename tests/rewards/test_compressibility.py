"""The proxy against real JPEG files, and against a slow cosine transform."""

import io

import jax
import numpy as np
from PIL import Image, ImageFilter

from rats_jax.rewards.compressibility import COMPRESSIBILITY_PROXY

LUMA = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""


def score(images):
    reward = COMPRESSIBILITY_PROXY.load("")
    return np.asarray(jax.jit(reward.reward_fn)(reward.params, np.float32(images), reward.prepare([""])))


def jpeg_bits(image):
    file = io.BytesIO()
    picture = Image.fromarray(np.uint8(np.round(255 * image)))
    picture.save(file, "JPEG", quality=50, subsampling=0, optimize=True)
    return 8 * len(file.getvalue())


def rank(values):
    return np.argsort(np.argsort(values))


def test_pictures_are_in_the_order_of_their_jpeg_sizes():
    """Noise, shapes and shades, each more and more blurred: 40 pictures of very different sizes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] / 64
    images = []
    for i in range(10):
        base = 0.5 + 0.4 * np.sin((3 + 4 * i) * x[..., None] + rng.uniform(0, 6, 3)) * (y > i / 12)[..., None]
        base = np.clip(base + 0.03 * i * rng.normal(size=(64, 64, 3)), 0, 1)
        picture = Image.fromarray(np.uint8(255 * base))
        images += [np.asarray(picture.filter(ImageFilter.GaussianBlur(r))) / 255 for r in (0, 0.7, 1.5, 4)]
    sizes = np.array([jpeg_bits(image) for image in images])
    assert sizes.max() > 5 * sizes.min()
    correlation = np.corrcoef(rank(-score(np.stack(images))), rank(sizes))[0, 1]
    assert correlation > 0.97


def test_a_flat_picture_takes_no_bits():
    flat = np.broadcast_to(np.random.default_rng(0).uniform(size=(5, 1, 1, 3)), (5, 24, 24, 3))
    np.testing.assert_allclose(score(flat), 0.0, atol=1e-5)


def test_a_grey_picture_by_hand():
    """One block beside a flat one: only luma differs, and the first mean of a row is free."""
    rng = np.random.default_rng(1)
    block = rng.uniform(size=(8, 8))
    image = np.concatenate([np.full((8, 8), 0.25), block], axis=1)
    bits = 0.0
    steps = np.array(LUMA.split(), float).reshape(8, 8) / 255
    for k in range(8):
        for m in range(8):
            c = 0.0
            for i in range(8):
                for j in range(8):
                    wave = np.cos((2 * i + 1) * k * np.pi / 16) * np.cos((2 * j + 1) * m * np.pi / 16)
                    c += block[i, j] * wave / 4 * (0.5**0.5 if k == 0 else 1) * (0.5**0.5 if m == 0 else 1)
            if k == m == 0:
                c -= 8 * 0.25
            bits += 0.5 * np.log2(1 + (c / steps[k, m]) ** 2)
    pictures = np.repeat(image[None, :, :, None], 3, axis=3)
    np.testing.assert_allclose(score(pictures), [-bits / (2 * 64 * 3)], rtol=1e-3)


def test_sizes_that_are_no_multiple_of_eight_are_filled_up_with_their_edge():
    image = np.random.default_rng(2).uniform(size=(1, 11, 13, 3))
    filled = np.pad(image, ((0, 0), (0, 5), (0, 3), (0, 0)), mode="edge")
    np.testing.assert_allclose(score(image), score(filled), rtol=1e-6)
