"""Scores and gradients of every reward with weights against its original network in PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rats_jax.rewards import REWARDS
from tests.originals import PROMPTS
from tests.rewards.conftest import find_originals

SIZES = {"tower": (32, 32), "wide": (40, 67), "tall": (71, 45), "small": (20, 24), "narrow": (90, 31)}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_scores_and_gradients_are_those_of_the_original(original, load_case, size):
    case = load_case(original)
    images = case.draw(len(PROMPTS), *SIZES[size])
    leaf = torch.tensor(images).movedim(-1, -3).requires_grad_()
    expected = case.original(leaf)
    expected.sum().backward()
    expected_slope = leaf.grad.movedim(-3, -1).numpy()

    score, slope = case.score(case.reward.params, images, case.reward.prepare(PROMPTS))
    assert score.dtype == jnp.float32 and score.shape == (len(PROMPTS),)
    np.testing.assert_allclose(score, expected.detach().numpy(), atol=1e-4)
    scale = np.abs(expected_slope).max()
    assert np.abs(slope - expected_slope).max() < 1e-3 * scale
    assert np.std(score) > 1e-3 and scale > 1e-6, "weights that tell nothing apart would agree with anything"


def test_every_reward_with_weights_has_an_original():
    expected = {kind for kind, reward in REWARDS.items() if reward.describe is not None}
    assert {kind for kind, _ in find_originals().values()} == expected
