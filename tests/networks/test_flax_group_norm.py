"""Group normalisation against flax."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from rats_jax.networks.flax_group_norm import replace_group_norm


class Norm(nn.Module):
    """One norm, replaced or not."""

    num_groups: int
    replaced: bool

    @nn.compact
    def __call__(self, x):
        norm = nn.GroupNorm(self.num_groups, epsilon=1e-5)
        if not self.replaced or self.is_initializing():
            return norm(x)
        with nn.intercept_methods(
            lambda next_fn, args, kwargs, context: replace_group_norm(context.module, *args)
        ):
            return norm(x)


@pytest.mark.parametrize("shape", [(2, 4, 4, 8), (3, 5, 8), (1, 1, 1, 16)])
@pytest.mark.parametrize("num_groups", [1, 4, 8])
def test_values_and_gradients_are_those_of_flax(shape, num_groups):
    keys = jax.random.split(jax.random.key(0), 4)
    x = 3.0 + 2.0 * jax.random.normal(keys[0], shape)
    flax, own = Norm(num_groups, False), Norm(num_groups, True)
    params = {
        "GroupNorm_0": {
            "scale": jax.random.normal(keys[1], shape[-1:]),
            "bias": jax.random.normal(keys[2], shape[-1:]),
        }
    }
    weights = jax.random.normal(keys[3], shape)

    def results(module):
        def total(params, x):
            y = module.apply({"params": params}, x)
            return jnp.sum(weights * y), y

        gradients, y = jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)
        return y, gradients

    chex.assert_trees_all_close(results(own), results(flax), rtol=2e-4, atol=2e-4)


def test_the_dtype_is_that_of_flax_and_sums_are_float32():
    x = (100.0 + jax.random.normal(jax.random.key(0), (2, 64, 64, 8))).astype(jnp.bfloat16)
    for dtype in (jnp.bfloat16, jnp.float32):
        params = {"GroupNorm_0": {"scale": jnp.ones(8, dtype), "bias": jnp.zeros(8, dtype)}}
        flax, own = (Norm(2, replaced).apply({"params": params}, x) for replaced in (False, True))
        assert own.dtype == flax.dtype == dtype
        chex.assert_trees_all_close(own, flax, rtol=0.02, atol=0.02)


def test_a_picture_without_contrast_stays_finite():
    params = {"GroupNorm_0": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}

    def total(x):
        return Norm(2, True).apply({"params": params}, x).sum()

    x = jnp.full((1, 8, 8, 8), 0.1)
    assert jnp.isfinite(total(x)) and jnp.isfinite(jax.grad(total)(x)).all()
