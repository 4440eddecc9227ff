"""Convolutions for loops: the values and gradients of the ordinary ones, in a form that has a fast kernel."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rats_jax.networks.flax_convolution import convolve, with_loop_convolutions

FORM = ("NHWC", "HWIO", "NHWC")


def gradients(fn, *arrays):
    return jax.grad(lambda *a: jnp.sum(jnp.sin(fn(*a))), argnums=tuple(range(len(arrays))))(*arrays)


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding"),
    [
        ((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1))),
        ((8, 8), (1, 1), (1, 1), ((0, 0), (0, 0))),
        ((8, 8), (3, 3), (2, 2), ((1, 1), (1, 1))),
        ((8, 8), (3, 3), (2, 2), ((0, 1), (0, 1))),
        ((7, 9), (3, 2), (2, 3), ((2, 0), (1, 3))),
        ((9, 5), (5, 1), (3, 1), ((0, 0), (0, 0))),
    ],
)
def test_values_and_gradients_are_those_of_lax(size, kernel, strides, padding):
    inputs = jax.random.normal(jax.random.key(0), (2, *size, 5))
    weights = jax.random.normal(jax.random.key(1), (*kernel, 5, 7))

    def plain(x, w):
        return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=FORM)

    def ours(x, w):
        return convolve(x, w, strides, padding)

    np.testing.assert_array_equal(ours(inputs, weights), plain(inputs, weights))
    for mine, theirs in zip(gradients(ours, inputs, weights), gradients(plain, inputs, weights), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)


class Network(nn.Module):
    """Every kind of convolution: plain, strided, padded by name, and some that are left alone."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3))(x)
        x = nn.Conv(6, (3, 3), strides=2, padding=1, use_bias=False)(jnp.tanh(x))
        x = nn.Conv(8, (1, 1), dtype=jnp.float32)(x)
        x = nn.Conv(8, (3, 3), kernel_dilation=2)(jnp.tanh(x))
        x = nn.Conv(8, (3, 3), feature_group_count=2)(x)
        x = nn.Conv(8, (3, 3), padding="CIRCULAR", strides=(2, 1))(jnp.tanh(x))
        return nn.Conv(4, (2, 2), padding="VALID")(x)


def test_a_network_computes_the_same():
    network, x = Network(), jax.random.normal(jax.random.key(0), (2, 12, 12, 3))
    params = network.init(jax.random.key(1), x)
    replaced = with_loop_convolutions(network.apply)
    np.testing.assert_array_equal(replaced(params, x), network.apply(params, x))
    expected, found = gradients(network.apply, params, x), gradients(replaced, params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="looks at programs for a CPU")
def test_a_loop_has_no_convolution_that_the_backend_lacks_a_kernel_for():
    network = nn.Sequential([nn.Conv(4, (3, 3)), nn.Conv(8, (3, 3), strides=2), nn.Conv(4, (1, 1))])
    x = jnp.ones((2, 8, 8, 4))
    params = network.init(jax.random.key(0), x)

    def layouts(apply_fn):
        def loss(params, x):
            def step(carry, _):
                return carry + jnp.mean(apply_fn(params, carry)), None

            return jnp.sum(lax.scan(step, x, length=3)[0])

        text = jax.jit(jax.grad(loss)).lower(params, x).compile().as_text()
        return set(re.findall(r"dim_labels=([\w>\-]+)", text))

    assert layouts(with_loop_convolutions(network.apply)) == {"b01f_01io->b01f"}
    assert len(layouts(network.apply)) > 1  # else this module has outlived its purpose
