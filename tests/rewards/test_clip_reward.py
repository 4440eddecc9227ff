"""The CLIP reward against transformers' own forward pass and PIL's resize; several rewards at once."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from transformers import CLIPConfig, FlaxCLIPModel

from rats_jax.models.clip import MEAN, STD, preprocess
from rats_jax.models.convert import WeightsError
from rats_jax.rewards import REWARDS, make_score_fn
from rats_jax.rewards.clip import load_clip_reward
from tests.tiny import PROMPTS, write_tiny_reward


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_reward(tmp_path_factory.mktemp("tiny") / "reward")


@pytest.fixture(scope="module")
def reward(folder):
    return REWARDS["clip"](folder)


def random_images(batch, size=32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(batch, size, size, 3)), jnp.float32)


def test_it_is_the_score_of_transformers(folder, reward):
    model = FlaxCLIPModel(CLIPConfig(**json.loads((folder / "config.json").read_text())), _do_init=False)
    images, ids = random_images(len(PROMPTS)), reward.prepare(PROMPTS)
    assert ids.dtype == np.int32 and len(ids) == len(PROMPTS)
    pixels = (images - np.array(MEAN)) / np.array(STD)  # the towers' size already: nothing to resize

    @jax.jit
    def direct(params, pixels):
        return model(ids, jnp.moveaxis(pixels, 3, 1), params=params).logits_per_image

    expected = np.diagonal(direct(reward.params, jnp.float32(pixels)))
    actual = jax.jit(reward.reward_fn)(reward.params, images, ids)
    chex.assert_shape(actual, (len(PROMPTS),))
    chex.assert_type(actual, jnp.float32)
    chex.assert_trees_all_close(actual, expected, atol=2e-4)  # of at most exp(logit_scale) = 10
    assert np.std(expected) > 0.05 and np.max(np.abs(expected)) < 10


def photo(height, width):
    """Smooth shading with a few sharp edges and some grain, as a photograph."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / height
    waves = [np.sin(6 * x + 4 * y), np.cos(9 * x * y), np.sin(5 * y) * np.cos(7 * x)]
    image = 0.5 + 0.3 * np.stack(waves, axis=-1)
    image[height // 4 : height // 2, width // 3 : 2 * width // 3] = (0.9, 0.1, 0.2)
    image[(x - 0.7) ** 2 + (y - 0.7) ** 2 < 0.02] = (0.0, 0.3, 1.0)
    return np.uint8(255 * np.clip(image + 0.02 * rng.normal(size=image.shape), 0, 1))


@pytest.mark.parametrize(("source", "size"), [(96, 40), (32, 56), (32, 32)])
def test_resizing_is_that_of_pil(source, size):
    pixels = photo(source, source)
    expected = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)) / 255
    normalised = preprocess(jnp.asarray(pixels[None] / 255, jnp.float32), size=size)
    chex.assert_shape(normalised, (1, size, size, 3))
    chex.assert_type(normalised, jnp.float32)
    actual = np.clip(np.asarray(normalised[0]) * STD + MEAN, 0, 1)
    assert np.mean(np.abs(actual - expected)) < 0.002


def test_gradients_reach_the_pictures_and_stay_finite_on_flat_ones(reward):
    ids = reward.prepare(PROMPTS[:4])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(reward.reward_fn(reward.params, x, ids))))
    flat = jnp.stack([jnp.full((32, 32, 3), value) for value in (0.0, 0.5, 1.0, float(MEAN[0]))])
    chex.assert_tree_all_finite(gradient(flat))
    images = random_images(4)
    slope = gradient(images)
    assert np.all(np.any(np.asarray(slope) != 0, axis=(1, 2, 3)))

    @jax.jit
    def along(step):
        return jnp.sum(reward.reward_fn(reward.params, images + step * slope, ids))

    step = 1e-2 / float(jnp.linalg.norm(slope))
    expected = float(jnp.sum(jnp.square(slope)))
    assert float(along(step) - along(-step)) / (2 * step) == pytest.approx(expected, rel=2e-2)


def test_a_picture_s_score_does_not_depend_on_its_neighbours(reward):
    images, ids = random_images(len(PROMPTS)), reward.prepare(PROMPTS)
    order = np.random.default_rng(1).permutation(len(PROMPTS))
    score = jax.jit(reward.reward_fn)
    chex.assert_trees_all_close(
        score(reward.params, images[order], ids[order]),
        score(reward.params, images, ids)[order],
        rtol=1e-5,
        atol=1e-5,
    )


def test_larger_pictures_are_resized_and_low_precision_stays_close(folder, reward):
    images, ids = random_images(4, size=64), reward.prepare(PROMPTS[:4])
    expected = jax.jit(reward.reward_fn)(reward.params, images, ids)
    low = load_clip_reward(folder, dtype=jnp.bfloat16)
    actual = jax.jit(low.reward_fn)(low.params, images, ids)
    chex.assert_type(actual, jnp.float32)
    chex.assert_trees_all_close(actual, expected, atol=0.3)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.json", "merges.txt"])
def test_a_missing_file_is_named(folder, tmp_path, name):
    damaged = shutil.copytree(folder, tmp_path / "reward")
    (damaged / name).unlink()
    with pytest.raises(WeightsError, match=f"'.*reward/{name}'"):
        load_clip_reward(damaged)


@pytest.mark.parametrize("jit", [False, True])
def test_all_rewards_are_scored_at_once_by_name(jit):
    fns = {
        "bright": lambda params, images, prompt: params * jnp.mean(images, axis=(1, 2, 3)),
        "near": lambda params, images, prompt: -jnp.square(images[:, 0, 0, 0] - prompt),
    }
    score_fn = make_score_fn(fns)
    images, prompt = random_images(3, size=2), jnp.array([0.1, 0.2, 0.3])
    run = jax.jit(score_fn) if jit else score_fn
    by_name = run({"bright": jnp.float32(2), "near": jnp.float32(0)}, images, {"bright": 0, "near": prompt})
    pictures = np.asarray(images, np.float64)
    bright = np.array([2 * picture.mean() for picture in pictures])
    near = np.array([-((p[0, 0, 0] - target) ** 2) for p, target in zip(pictures, prompt, strict=True)])
    chex.assert_trees_all_close(by_name, {"bright": np.float32(bright), "near": np.float32(near)}, rtol=1e-5)
