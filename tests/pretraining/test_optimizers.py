"""Optimizers of pretraining: what Muon takes for a matrix, and what it leaves to AdamW."""

import jax
import numpy as np
import optax
import pytest

from rats_jax.errors import ConfigError
from rats_jax.pretraining.optimizers import make_optimizer

RNG = np.random.default_rng(0)
RATE = 0.1
PARAMS = {
    "blocks_0_to_1": {"to_q": {"kernel": (2, 8, 4), "bias": (2, 4)}},
    "conv": {"kernel": (3, 3, 2, 6), "bias": (6,)},
    "shared": {"embedding": (5, 4)},
}
IS_SHAPE = {"is_leaf": lambda leaf: isinstance(leaf, tuple)}


def draw():
    return jax.tree.map(lambda shape: np.float32(RNG.normal(size=shape)), PARAMS, **IS_SHAPE)


@pytest.fixture(scope="module")
def drawn():
    return draw(), draw()


def update(name, params, grads):
    optimizer = make_optimizer(name, optax.constant_schedule(RATE))
    return jax.jit(lambda: optimizer.update(grads, optimizer.init(params), params)[0])()


def without_decay(updates, params):
    return updates + RATE * 0.01 * params


def test_muon_makes_all_singular_values_of_a_matrix_alike(drawn):
    updates = update("muon", *drawn)
    conv = without_decay(updates["conv"]["kernel"], drawn[0]["conv"]["kernel"]).reshape(18, 6)
    values = np.linalg.svd(conv, compute_uv=False)
    assert values.max() / values.min() < 2.0
    gradient = np.linalg.svd(drawn[1]["conv"]["kernel"].reshape(18, 6), compute_uv=False)
    assert values.max() / values.min() < gradient.max() / gradient.min()
    # As large as an update of AdamW about is.
    np.testing.assert_allclose(np.sqrt(np.mean(conv**2)), 0.2 * RATE, rtol=0.3)


def test_each_block_of_a_stack_is_a_matrix_of_its_own(drawn):
    params, grads = drawn
    grads = jax.tree.map(lambda g: g / 100.0, grads)  # below the clip
    stacked = update("muon", params, grads)["blocks_0_to_1"]["to_q"]["kernel"]
    for i in range(2):
        one, of_one = ({"to_q": {"kernel": t["blocks_0_to_1"]["to_q"]["kernel"][i]}} for t in (params, grads))
        np.testing.assert_allclose(stacked[i], update("muon", one, of_one)["to_q"]["kernel"], rtol=1e-4)


def test_the_rest_is_updated_as_adamw_with_nesterovs_momentum_does(drawn):
    params, grads = drawn
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.nadamw(RATE, weight_decay=0.01))
    theirs, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    ours = update("muon", *drawn)
    for part, name in (("conv", "bias"), ("shared", "embedding")):
        np.testing.assert_allclose(ours[part][name], theirs[part][name], rtol=1e-5)
    assert np.any(np.abs(ours["conv"]["kernel"] - theirs["conv"]["kernel"]) > 0.01)


def test_another_name_is_refused():
    with pytest.raises(ConfigError, match="^optimizer='lion': expected one of adamw, muon$"):
        make_optimizer("lion", optax.constant_schedule(RATE))
