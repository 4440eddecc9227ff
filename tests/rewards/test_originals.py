"""Scores and gradients of every reward with weights against its original network in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.originals import PROMPTS

torch = pytest.importorskip("torch")

SIZES = {"tower": (32, 32), "wide": (40, 67), "tall": (71, 45), "small": (20, 24), "narrow": (90, 31)}


def pictures(height, width, seed=0):
    return np.random.default_rng(seed).uniform(size=(len(PROMPTS), height, width, 3)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_scores_and_gradients_are_those_of_the_original(original, load_pair, size):
    original_fn, reward = load_pair(original)
    images = pictures(*SIZES[size])
    leaf = torch.tensor(images).permute(0, 3, 1, 2).requires_grad_()
    expected = original_fn(leaf)
    expected.sum().backward()
    expected_slope = leaf.grad.permute(0, 2, 3, 1).numpy()

    prompt = reward.prepare(PROMPTS)
    score = jax.jit(reward.reward_fn)(reward.params, images, prompt)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(reward.reward_fn(reward.params, x, prompt))))(images)
    assert score.dtype == jnp.float32 and score.shape == (len(PROMPTS),)
    np.testing.assert_allclose(score, expected.detach().numpy(), atol=1e-4)
    scale = np.abs(expected_slope).max()
    assert np.abs(slope - expected_slope).max() < 1e-3 * scale
    assert np.std(score) > 1e-3 and scale > 1e-6, "weights that tell nothing apart would agree with anything"
