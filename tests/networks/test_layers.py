"""Layers against flax and PyTorch: convolution, group normalisation, activations."""

import re

import chex
import diffusers.models.activations
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rats_jax.networks.group_norm import group_norm_by_products
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import ACTIVATIONS, Conv, GroupNorm, match_batch

GROUP_NORMS = pytest.mark.parametrize("kernels", [PLAIN, Kernels(group_norm=group_norm_by_products)])


def run_original_activation(name, tensor):
    if name == "quick_gelu":
        return tensor * torch.sigmoid(1.702 * tensor)
    return diffusers.models.activations.get_activation(name)(tensor)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_pytorch(name):
    x = np.linspace(-9, 9, 101, dtype=np.float32)
    wanted = run_original_activation(name, torch.from_numpy(x))
    np.testing.assert_allclose(ACTIVATIONS[name](x), wanted, atol=2e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_of_activations_are_those_of_pytorch(name):
    x = np.concatenate([np.linspace(-40, 40, 99), np.linspace(-2, 2, 41)[1::2]]).astype(np.float32)
    tensor = torch.from_numpy(x).requires_grad_()
    run_original_activation(name, tensor).sum().backward()
    slopes = jax.grad(lambda x: ACTIVATIONS[name](x).sum())(x)
    away = x != 0 if name == "relu" else slice(None)
    np.testing.assert_allclose(slopes[away], tensor.grad[away], atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"relu"}))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_backward_pass_keeps_the_slope_of_an_activation_alone(name, dtype):
    x = jnp.linspace(-4, 4, 1000, dtype=dtype)
    value, backward = jax.vjp(ACTIVATIONS[name], x)
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape == x.shape]
    assert value.dtype == dtype and [leaf.dtype for leaf in kept] == [dtype]


def test_the_exact_gelu_is_rounded_once():
    x = jnp.linspace(-6, 6, 1001, dtype=jnp.bfloat16)
    wanted = torch.nn.functional.gelu(torch.from_numpy(np.array(x.astype(jnp.float32))))
    actual = ACTIVATIONS["gelu"](x).astype(jnp.float32)
    np.testing.assert_allclose(actual, wanted.bfloat16().float(), rtol=1e-6, atol=2e-5)  # the tail is rounded


def test_the_smaller_batch_is_repeated():
    x, y, z = jnp.arange(3.0), jnp.arange(12.0).reshape(6, 2), jnp.arange(6)
    x, *same = match_batch(x, y, z)
    np.testing.assert_array_equal(x, [0, 0, 1, 1, 2, 2])
    assert same[0] is y and same[1] is z
    with pytest.raises(AssertionError, match="divisible"):
        match_batch(jnp.zeros(4), z)


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_convolution_is_that_of_flax(use_bias):
    options = {"kernel_size": (3, 2), "strides": (2, 1), "padding": ((1, 0), (2, 1)), "use_bias": use_bias}
    ours, flax = Conv(6, **options), nn.Conv(6, **options)
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 4))
    params = ours.init(jax.random.key(1), x)
    chex.assert_trees_all_equal(params, flax.init(jax.random.key(1), x))
    if use_bias:
        params["params"]["bias"] = jnp.arange(6.0)
    np.testing.assert_array_equal(ours.apply(params, x), flax.apply(params, x))


def test_a_convolution_goes_through_the_kernel_in_its_dtype():
    def kernel(inputs, weights, strides, padding):
        assert inputs.dtype == weights.dtype == jnp.bfloat16
        assert (strides, padding) == ((2, 2), ((0, 1), (0, 1)))
        return jnp.full((1, 2, 2, 3), 5, inputs.dtype)

    padding = ((0, 1), (0, 1))
    conv = Conv(3, strides=(2, 2), padding=padding, dtype=jnp.bfloat16, kernels=Kernels(convolve=kernel))
    params = {"kernel": jnp.ones((3, 3, 2, 3)), "bias": jnp.array([0.0, 1.0, 2.0])}
    outputs = conv.apply({"params": params}, jnp.ones((1, 4, 4, 2)))
    assert outputs.dtype == jnp.bfloat16
    np.testing.assert_array_equal(outputs[0, 0, 0], [5.0, 6.0, 7.0])


@pytest.mark.parametrize("shape", [(2, 4, 4, 8), (3, 5, 8), (1, 1, 1, 16)])
@pytest.mark.parametrize("num_groups", [1, 4, 8])
@GROUP_NORMS
def test_a_group_norm_has_the_values_and_gradients_of_flax(shape, num_groups, kernels):
    keys = jax.random.split(jax.random.key(0), 4)
    x = 3.0 + 2.0 * jax.random.normal(keys[0], shape)
    params = {"scale": jax.random.normal(keys[1], shape[-1:]), "bias": jax.random.normal(keys[2], shape[-1:])}
    weights = jax.random.normal(keys[3], shape)

    def results(module):
        def total(params, x):
            y = module.apply({"params": params}, x)
            return jnp.sum(weights * y), y

        gradients, y = jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)
        return y, gradients

    ours, flax = GroupNorm(num_groups, 1e-2, kernels=kernels), nn.GroupNorm(num_groups, epsilon=1e-2)
    chex.assert_trees_all_close(results(ours), results(flax), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@GROUP_NORMS
def test_a_group_norm_sums_in_float32(dtype, kernels):
    x = (100.0 + jax.random.normal(jax.random.key(0), (2, 64, 64, 8))).astype(jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    ours = jax.jit(GroupNorm(2, 1e-5, dtype, kernels).apply)(params, x)
    groups = np.asarray(x, np.float64).reshape(2, -1, 2, 4)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt(np.mean(centred**2, (1, 3), keepdims=True) + 1e-5)
    assert ours.dtype == dtype
    np.testing.assert_allclose(np.asarray(ours, np.float64), expected.reshape(x.shape), 0.02, 0.02)


@GROUP_NORMS
def test_a_sharded_batch_is_normalised_without_moving_samples(kernels):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    over_batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.device_put(jnp.ones((jax.device_count(), 4, 4, 8)), over_batch)
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    program = jax.jit(GroupNorm(2, 1e-5, kernels=kernels).apply, out_shardings=over_batch)
    text = program.lower(params, x).compile().as_text()
    assert not re.search("all-gather|all-to-all|collective-permute|all-reduce", text)


@GROUP_NORMS
def test_a_picture_without_contrast_stays_finite(kernels):
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}

    def total(x):
        return GroupNorm(2, 1e-5, kernels=kernels).apply(params, x).sum()

    x = jnp.full((1, 8, 8, 8), 0.1)
    assert jnp.isfinite(total(x)) and jnp.isfinite(jax.grad(total)(x)).all()
