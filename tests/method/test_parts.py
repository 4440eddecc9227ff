"""A batch that passes through a function in parts gives what it gives at once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.aot.flops import count_flops
from rats_jax.method.parts import cut, in_parts


def decode(weights, latents, extra):
    return {"images": jnp.tanh(latents @ weights), "sums": jnp.sum(latents, axis=1) + extra["shift"]}


def arguments(batch_size):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 5)).astype(np.float32)
    latents = rng.normal(size=(batch_size, 3)).astype(np.float32)
    return weights, latents, {"shift": np.arange(batch_size, dtype=np.float32)}


@pytest.mark.parametrize("num_parts", [1, 2, 3, 6])
def test_values_and_gradients_are_those_of_the_whole_batch(num_parts):
    def total(fn, *args):
        outputs = fn(*args)
        return jnp.sum(outputs["images"] ** 2) + jnp.sum(outputs["sums"] ** 3)

    args = arguments(6)
    parts = in_parts(decode, num_parts)
    chex.assert_trees_all_close(parts(*args), decode(*args), atol=1e-6)
    slopes = [jax.grad(lambda *a, fn=fn: total(fn, *a), argnums=(0, 1))(*args) for fn in (decode, parts)]
    chex.assert_trees_all_close(*slopes, rtol=1e-5)


def test_parts_are_computed_again_in_the_backward_pass_not_stored():
    args = arguments(6)

    def slope(fn):
        return jax.grad(lambda latents: jnp.sum(fn(args[0], latents, args[2])["images"]))

    once, twice = (count_flops(slope(fn), args[1]) for fn in (decode, in_parts(decode, 2)))
    assert twice == pytest.approx(1.5 * once)  # two products, and one of them once more


def test_parts_are_neighbours_that_lie_apart():
    rows = np.asarray(cut(jnp.arange(6), 2))
    assert rows.shape == (2, 3) and sorted(rows.reshape(-1)) == list(range(6))
    np.testing.assert_array_equal(rows[0] % 2, rows[0][0] % 2)  # each device keeps a share of every part
