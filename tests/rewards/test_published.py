"""Scores that the publishers print for pictures of theirs, with the real weights; they need a network.

pytest -m network tests/rewards/test_published.py
"""

import io
import urllib.request

import jax
import numpy as np
import pytest
from PIL import Image

from rats_jax.rewards import REWARDS
from tests.tiny import read_reward

pytestmark = pytest.mark.network


def download(address):
    with urllib.request.urlopen(address) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"), np.float32) / 255


def score(kind, path, picture, prompts):
    reward = read_reward(REWARDS[kind].load(path))
    images = np.broadcast_to(picture, (len(prompts), *picture.shape))
    return np.asarray(jax.jit(reward.reward_fn)(reward.params, images, reward.prepare(prompts)))


def test_imagereward():
    """Source: THUDM/ImageReward, README, "Example Use"; PIL rounds to 8 bits after resizing."""
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    folder = "https://raw.githubusercontent.com/THUDM/ImageReward/main/assets/images"
    expected = [0.5811622738838196, 0.2745276093482971, -1.4131819009780884, -2.029569625854492]
    for number, value in enumerate(expected, start=1):
        picture = download(f"{folder}/{number}.webp")
        assert score("imagereward", "", picture, [prompt]) == pytest.approx([value], abs=0.03)


def test_clipscore_of_a_photograph():
    """Source: huggingface/transformers, CLIPModelIntegrationTest; its logits have a scale of 100."""
    picture = download("http://images.cocodataset.org/val2017/000000039769.jpg")
    prompts = ["a photo of a cat", "a photo of a dog"]
    actual = score("clipscore", "openai/clip-vit-base-patch32", picture, prompts)
    assert actual == pytest.approx([24.5701, 19.3049], abs=0.1)


def test_clipscore_of_noise():
    """Source: Lightning-AI/torchmetrics, the example of functional.multimodal.clip_score."""
    torch = pytest.importorskip("torch")
    pixels = torch.randint(255, (3, 224, 224), generator=torch.Generator().manual_seed(42))
    picture = np.float32(pixels.permute(1, 2, 0).numpy()) / 255
    actual = score("clipscore", "openai/clip-vit-base-patch16", picture, ["a photo of a cat"])
    assert actual == pytest.approx([24.4255], abs=0.02)
