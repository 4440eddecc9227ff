"""PickScore: its original, its size, transformers' own forward pass in Flax; several rewards at once."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPTokenizer

from rats_jax.errors import WeightsError
from rats_jax.networks.preprocess import MEAN, STD
from rats_jax.rewards import make_score_fn
from rats_jax.rewards.pickscore import describe_pickscore, load_pickscore
from rats_jax.weights.state_dict import read_safetensors
from rats_jax.weights.tokenizers import tokenize
from tests.originals import crop, normalise, transformers_features, write_transformers
from tests.rewards.sizes import VIT_H, count
from tests.tiny import PROMPTS, read_reward, write_tiny_reward


def make_pickscore(folder):
    model = write_transformers(folder, seed=0)

    def score(images):
        text, image = transformers_features(model, normalise(crop(images)))
        return model.logit_scale.exp() * torch.cosine_similarity(text, image)

    return score


ORIGINALS = {"pickscore": ("pickscore", make_pickscore)}


def test_it_has_the_published_number_of_weights():
    assert count(describe_pickscore(dtype=jnp.bfloat16).params) == VIT_H


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_reward(tmp_path_factory.mktemp("tiny") / "reward")


@pytest.fixture(scope="module")
def reward(folder):
    return read_reward(load_pickscore(str(folder)))


def random_images(batch, size=32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(batch, size, size, 3)), jnp.float32)


def test_it_is_the_score_of_transformers(folder, reward):
    config = CLIPConfig(**json.loads((folder / "config.json").read_text()))
    from transformers import FlaxCLIPModel  # the pinned version's: others import this file, too

    model = FlaxCLIPModel.from_pretrained(folder, config=config, from_pt=True)
    images, ids = random_images(len(PROMPTS)), tokenize(CLIPTokenizer.from_pretrained(str(folder)), PROMPTS)
    pixels = (images - np.array(MEAN)) / np.array(STD)  # the towers' size already: nothing to resize

    @jax.jit
    def direct(params, pixels):
        return model(ids, jnp.moveaxis(pixels, 3, 1), params=params).logits_per_image

    expected = np.diagonal(direct(model.to_fp32(model.params), jnp.float32(pixels)))
    actual = jax.jit(reward.reward_fn)(reward.params, images, reward.prepare(PROMPTS))
    chex.assert_shape(actual, (len(PROMPTS),))
    chex.assert_type(actual, jnp.float32)
    chex.assert_trees_all_close(actual, expected, atol=2e-4)  # of at most exp(logit_scale) = 10
    assert np.std(expected) > 0.05 and np.max(np.abs(expected)) < 10


def test_the_text_tower_stays_behind(folder, reward):
    """Prompts become embeddings of length 1; the reward's weights are those of the image tower."""
    embeds = reward.prepare([*PROMPTS, PROMPTS[0]])
    chex.assert_shape(embeds, (len(PROMPTS) + 1, 16))
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1.0, rtol=1e-5)
    assert np.array_equal(embeds[0], embeds[-1])
    assert sorted(reward.params) == ["logit_scale", "vision_model", "visual_projection"]
    assert any(name.startswith("text_model") for name in read_safetensors(folder / "model.safetensors"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "merges.txt"])
def test_a_missing_file_is_named(folder, tmp_path, name):
    damaged = shutil.copytree(folder, tmp_path / "reward")
    (damaged / name).unlink()
    with pytest.raises(WeightsError, match=f"reward.*{name}'"):
        load_pickscore(str(damaged))


def test_without_a_tokenizer_it_is_openai_s_and_must_fit(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "reward")
    (damaged / "vocab.json").unlink()
    with pytest.raises(WeightsError, match="clip_tokenizer' has a length of 77, expected at most"):
        load_pickscore(str(damaged))


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
