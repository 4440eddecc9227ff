"""The published sizes, by their shapes alone: numbers of weights worked out by hand, scores and slopes."""

import jax
import jax.numpy as jnp
import pytest

from rats_jax.networks.clip import init_clip, make_clip
from rats_jax.rewards import REWARDS
from rats_jax.rewards.full_size import FULL_SIZE
from rats_jax.weights.folder import abstract_params
from rats_jax.weights.open_clip import VIT_H_14, VIT_L_14, to_transformers_config


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def layer(width, hidden, *, context=None):
    """Attention of four biased maps, two norms, two maps in between; and a second attention to a context."""
    attention = 4 * width * width + 4 * width
    between = 2 * width * hidden + hidden + width
    cross = 0 if context is None else 2 * (width + context) * width + 4 * width + 2 * width
    return attention + between + 4 * width + cross


# Patches without bias, class token, positions, two norms around the layers, projection, logit scale.
VIT_H = 3 * 14 * 14 * 1280 + 1280 + 257 * 1280 + 4 * 1280 + 32 * layer(1280, 5120) + 1280 * 1024 + 1
VIT_L = 3 * 14 * 14 * 1024 + 1024 + 257 * 1024 + 4 * 1024 + 24 * layer(1024, 4096) + 1024 * 768 + 1
# Patches with bias, class token, positions, a norm at the end.
BLIP = 3 * 16 * 16 * 1024 + 1024 + 1024 + 197 * 1024 + 2 * 1024 + 24 * layer(1024, 4096)
BERT = (30524 + 512) * 768 + 2 * 768 + 12 * layer(768, 3072, context=1024)
EXPECTED = {
    "aesthetic": VIT_L + 768 + 1,
    "clipscore": VIT_L,
    "hpsv2.0": VIT_H,
    "hpsv2.1": VIT_H,
    "imagereward": BLIP + BERT + 768 + 1,
    "pickscore": VIT_H,
}


@pytest.mark.parametrize(("config", "total"), [(VIT_H_14, 986_109_441), (VIT_L_14, 427_616_513)])
def test_both_towers_have_the_published_numbers_of_weights(config, total):
    """Of laion/CLIP-ViT-H-14-laion2B-s32B-b79K and openai/clip-vit-large-patch14."""
    module = make_clip(to_transformers_config(config, source="published"))
    assert count(abstract_params(init_clip, module)) == total


@pytest.mark.parametrize("kind", FULL_SIZE)
def test_scores_and_slopes_have_their_shapes(kind):
    reward_fn, params, prompt = FULL_SIZE[kind](2, dtype=jnp.bfloat16)
    assert count(params) == EXPECTED[kind]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    images = jax.ShapeDtypeStruct((2, 768, 512, 3), jnp.float32)
    score = jax.eval_shape(reward_fn, params, images, prompt)
    assert (score.shape, score.dtype) == ((2,), jnp.float32)
    slope = jax.eval_shape(
        jax.grad(lambda x, *rest: reward_fn(rest[0], x, rest[1]).sum()), images, params, prompt
    )
    assert (slope.shape, slope.dtype) == (images.shape, jnp.float32)


def test_every_reward_with_weights_has_its_full_size():
    assert set(FULL_SIZE) == set(REWARDS) - {"colour_target", "compressibility_proxy"}
