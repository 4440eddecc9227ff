"""The published sizes, by their shapes alone: numbers of weights, scores and slopes."""

import jax
import jax.numpy as jnp
import pytest

from rats_jax.networks.abstract import abstract_params
from rats_jax.networks.clip import CLIPModel, init_clip
from rats_jax.rewards import REWARDS
from rats_jax.weights.open_clip import VIT_H_14, VIT_L_14, to_transformers_config
from tests.rewards.conftest import NO_WEIGHTS
from tests.rewards.sizes import count

PUBLISHED = [kind for kind, reward in REWARDS.items() if reward.describe is not None]


@pytest.mark.parametrize(("config", "total"), [(VIT_H_14, 986_109_441), (VIT_L_14, 427_616_513)])
def test_both_towers_have_the_published_numbers_of_weights(config, total):
    """Of laion/CLIP-ViT-H-14-laion2B-s32B-b79K and openai/clip-vit-large-patch14."""
    module = CLIPModel.from_config(to_transformers_config(config, source="published"))
    assert count(abstract_params(init_clip, module)) == total


@pytest.mark.parametrize("kind", [*PUBLISHED, *NO_WEIGHTS])
def test_scores_and_slopes_have_their_shapes(kind):
    describe = REWARDS[kind].describe
    reward = REWARDS[kind].load("") if describe is None else describe(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(reward.params)} <= {jnp.dtype(jnp.float32)}
    shape = (2, 9, 768, 512, 3) if REWARDS[kind].of_videos else (2, 768, 512, 3)
    images, prompt = jax.ShapeDtypeStruct(shape, jnp.float32), reward.prepare(["one", "two"])

    def total(images, params, prompt):
        score = reward.reward_fn(params, images, prompt)
        assert (score.shape, score.dtype) == ((2,), jnp.float32)
        return score.sum()

    slope = jax.eval_shape(jax.grad(total), images, reward.params, prompt)
    assert (slope.shape, slope.dtype) == (images.shape, jnp.float32)
