"""The optimizer chain against AdamW written out in NumPy (Loshchilov and Hutter, algorithm 2)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rats_jax.training.optimizer import make_optimizer

SETTINGS = dict(
    learning_rate=0.1,
    warmup_updates=4,
    decay_updates=0,
    clip_norm=1.0,
    b1=0.8,
    b2=0.95,
    weight_decay=0.01,
)


def adamw(
    params, gradients, *, learning_rate, warmup_updates, decay_updates, clip_norm, b1, b2, weight_decay
):
    first, second = np.zeros_like(params), np.zeros_like(params)
    for n, gradient in enumerate(gradients, start=1):
        gradient = gradient * min(1.0, clip_norm / np.linalg.norm(gradient))
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        step = first / (1 - b1**n) / (np.sqrt(second / (1 - b2**n)) + 1e-8)
        rate = learning_rate * (min(1.0, n / warmup_updates) if warmup_updates else 1.0)
        if decay_updates:
            rate *= max(0.0, (decay_updates - (n - 1)) / decay_updates)
        params = params - rate * (step + weight_decay * params)
    return params


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"warmup_updates": 0},
        {"decay_updates": 20},
        {"decay_updates": 6},
        {"clip_norm": 100.0},
        {"weight_decay": 0.0},
    ],
)
def test_updates_are_adamw_with_clip_and_warmup(change):
    settings = SETTINGS | change
    gradients = np.random.default_rng(0).normal(size=(9, 5)) * 3
    start = np.linspace(-1, 1, 5)
    optimizer = make_optimizer(**settings)
    params = {"w": jnp.asarray(start, jnp.float32)}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update({"w": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], adamw(start, gradients, **settings), rtol=2e-5, atol=1e-6)


def test_the_norm_that_is_clipped_is_of_all_leaves_together():
    optimizer = make_optimizer(**SETTINGS | {"warmup_updates": 0})
    gradients = {"a": jnp.full(3, 10.0), "b": jnp.full((2, 2), 20.0)}
    params = jax.tree.map(jnp.zeros_like, gradients)
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    first = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(
        optax.global_norm(first), (1 - SETTINGS["b1"]) * SETTINGS["clip_norm"], rtol=1e-5
    )
