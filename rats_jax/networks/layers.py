"""Layers that several networks share: convolution, linear, norms, activations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.types import Array


def with_slope(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Let the backward pass of an elementwise function keep one array, its slope, in place of several."""
    wrapped = jax.custom_jvp(function)

    @wrapped.defjvp
    def _value_and_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        value, slope = jax.jvp(function, primals, (jnp.ones_like(primals[0]),))
        return value, slope * tangents[0]

    return functools.wraps(function)(wrapped)


@with_slope
def silu(x: Array) -> Array:
    """x * sigmoid(x), also called swish."""
    return jax.nn.silu(x)


@with_slope
def quick_gelu(x: Array) -> Array:
    """x * sigmoid(1.702 x), OpenAI's approximation of the GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


@with_slope
def gelu_tanh(x: Array) -> Array:
    """The GELU by a hyperbolic tangent, which PyTorch calls gelu of approximate='tanh'."""
    return jax.nn.gelu(x, approximate=True)


@with_slope
def gelu(x: Array) -> Array:
    """The exact GELU, x * Phi(x), which PyTorch calls gelu; JAX approximates it by default.

    By the error function in float32, as in PyTorch. `jax.nn.gelu` takes its complement, which XLA computes in
    two ways, to choose between them.
    """
    inputs = x.astype(jnp.float32)
    return (inputs * (0.5 + 0.5 * lax.erf(inputs * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": silu,
    "swish": silu,
    "mish": with_slope(jax.nn.mish),
    "gelu": gelu,
    "relu": jax.nn.relu,
    "quick_gelu": quick_gelu,
}
"""Activations by PyTorch's names."""


def match_batch(*arrays: Array) -> tuple[Array, ...]:
    """Repeat samples, a a b b c c, until all arrays [B, ...] have as many as the largest, [R * B, ...]."""
    size = max(x.shape[0] for x in arrays)
    for x in arrays:
        chex.assert_is_divisible(size, x.shape[0])
    return tuple(jnp.repeat(x, size // x.shape[0], axis=0) if x.shape[0] != size else x for x in arrays)


class Conv(nn.Module):
    """A convolution of [B, H, W, I] with zeros around it, and a bias.

    Attributes:
        features: O.
        kernel_size: of height and width.
        strides: of height and width.
        padding: zeros before and after height, before and after width.
        use_bias: whether there is a bias.
        dtype: of the computation and the result.
        kernels: of the device.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Convolve: [B, H, W, I] -> [B, H', W', O]."""
        shape = (*self.kernel_size, inputs.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        inputs, kernel = inputs.astype(self.dtype), kernel.astype(self.dtype)
        outputs = self.kernels.convolve(inputs, kernel, self.strides, self.padding)
        if not self.use_bias:
            return outputs
        return outputs + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)


class GroupNorm(nn.Module):
    """Normalisation of groups of channels.

    Attributes:
        num_groups: divides the channels.
        epsilon: added to the variance.
        dtype: of the result; sums are float32.
        kernels: of the device.
    """

    num_groups: int
    epsilon: float
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Normalise [B, ..., C]."""
        scale = self.param("scale", nn.initializers.ones, inputs.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, inputs.shape[-1:])
        return self.kernels.group_norm(
            inputs, scale, bias, num_groups=self.num_groups, epsilon=self.epsilon, dtype=self.dtype
        )
