"""Convolutions for loops: the values and gradients of the ordinary ones, in a form that has a fast kernel."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rats_jax.networks.convolution import convolve, convolve_frames, convolve_in_loops


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
        return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    wanted, wanted_gradients = plain(inputs, weights), gradients(plain, inputs, weights)
    for function in (convolve, convolve_in_loops):

        def ours(x, w, function=function):
            return function(x, w, strides, padding)

        np.testing.assert_array_equal(ours(inputs, weights), wanted)
        for mine, theirs in zip(gradients(ours, inputs, weights), wanted_gradients, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("length", "taps", "before", "stride"),
    [(1, 3, 2, 1), (2, 3, 2, 1), (5, 3, 2, 1), (5, 3, 0, 2), (6, 2, 3, 3), (4, 1, 0, 1), (1, 3, 0, 2)],
)
def test_frames_are_convolved_as_lax_convolves_videos(length, taps, before, stride):
    frames = jax.random.normal(jax.random.key(0), (2, length, 4, 5, 3))
    weights = jax.random.normal(jax.random.key(1), (taps, 3, 1, 3, 2))
    padding = ((1, 1), (0, 0))

    def plain(x, w):
        form = ("NTHWC", "THWIO", "NTHWC")
        around = ((before, 0), *padding)
        return lax.conv_general_dilated(x, w, (stride, 1, 1), around, dimension_numbers=form)

    def ours(function, x, w):
        return convolve_frames(x, w, padding, before=before, stride=stride, convolve=function)

    @jax.jit
    def compute(x, w):
        ways = plain, *(functools.partial(ours, function) for function in (convolve, convolve_in_loops))
        return [(way(x, w), gradients(way, x, w)) for way in ways]

    wanted, *found = compute(frames, weights)
    for result in found:
        chex.assert_trees_all_close(result, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="looks at programs for a CPU")
def test_a_loop_has_no_convolution_that_the_backend_lacks_a_kernel_for():
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (2, 8, 8, 4))
    shapes = (3, 3, 4, 4), (3, 3, 4, 8), (1, 1, 8, 4)
    weights = [jax.random.normal(key, shape) for key, shape in zip(keys[1:], shapes, strict=True)]
    around, nothing = ((1, 1), (1, 1)), ((0, 0), (0, 0))

    def layouts(function):
        def network(x, weights):
            x = function(x, weights[0], (1, 1), around)
            x = function(x, weights[1], (2, 2), around)
            return function(x, weights[2], (1, 1), nothing)

        def loss(weights, x):
            def step(carry, _):
                return carry + jnp.mean(network(carry, weights)), None

            return jnp.sum(lax.scan(step, x, length=3)[0])

        text = jax.jit(jax.grad(loss)).lower(weights, x).compile().as_text()
        return set(re.findall(r"dim_labels=([\w>\-]+)", text))

    assert layouts(convolve_in_loops) == {"b01f_01io->b01f"}
    assert len(layouts(convolve)) > 1  # else convolve_in_loops has outlived its purpose
