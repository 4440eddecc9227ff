"""Residual block of two convolutions, and convolutions that halve or double a picture."""

from __future__ import annotations

from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import ACTIVATIONS, Conv, GroupNorm, match_batch
from rats_jax.types import Array

_NO_PADDING = ((0, 0), (0, 0))


class ResnetBlock2D(nn.Module):
    """A residual block: norm, activation, convolution, twice; an embedding of the time enters in between.

    Attributes:
        features: O, channels of the result.
        num_groups: of the norms.
        epsilon: of the norms.
        act_fn: name of the activation.
        scale_shift: whether the time scales and shifts what the second norm gives, or is added before it.
        output_scale_factor: divides the sum.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: ResnetBlock2D in diffusers/models/resnet.py.
    """

    features: int
    num_groups: int
    epsilon: float
    act_fn: str = "silu"
    scale_shift: bool = False
    output_scale_factor: float = 1.0
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, inputs: Array, time: Array | None = None) -> Array:
        """Compute a block.

        Args:
            inputs: [B, H, W, I].
            time: [B, D], or None for a block that knows no time. Either batch may be R times the other.

        Returns:
            [B, H, W, O], of the larger batch.
        """
        chex.assert_rank(inputs, 4)
        activate = ACTIVATIONS[self.act_fn]
        scale = shift = None
        hidden = self._conv("conv1")(activate(self._norm("norm1")(inputs)))
        if time is not None:
            width = self.features * (2 if self.scale_shift else 1)
            project = nn.Dense(width, dtype=self.dtype, name="time_emb_proj")
            projected = project(activate(time))[:, None, None, :]
            hidden, projected, inputs = match_batch(hidden, projected, inputs)
            if self.scale_shift:
                scale, shift = jnp.split(projected, 2, axis=-1)
            else:
                hidden = hidden + projected
        hidden = self._norm("norm2")(hidden)
        if scale is not None and shift is not None:
            hidden = hidden * (1 + scale) + shift
        hidden = self._conv("conv2")(activate(hidden))
        if inputs.shape[-1] != self.features:
            inputs = self._conv("conv_shortcut", kernel_size=(1, 1), padding=_NO_PADDING)(inputs)
        return (hidden + inputs) / self.output_scale_factor

    def _norm(self, name: str) -> GroupNorm:
        return GroupNorm(self.num_groups, self.epsilon, self.dtype, self.kernels, name=name)

    def _conv(self, name: str, **options: Any) -> Conv:
        return Conv(self.features, **options, dtype=self.dtype, kernels=self.kernels, name=name)


class Downsample2D(nn.Module):
    """A convolution of stride 2.

    Attributes:
        padding: 1, zeros all around; 0, zeros below and to the right alone.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: Downsample2D in diffusers/models/downsampling.py.
    """

    padding: int = 1
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Halve height and width: [B, H, W, C] -> [B, H', W', C]."""
        pairs = ((self.padding, 1), (self.padding, 1))
        options = {"strides": (2, 2), "padding": pairs, "dtype": self.dtype, "kernels": self.kernels}
        return Conv(inputs.shape[-1], **options, name="conv")(inputs)


class Upsample2D(nn.Module):
    """A convolution of an enlarged picture.

    Attributes:
        dtype: of the computation and the result.
        kernels: of the device.

    Source: Upsample2D in diffusers/models/upsampling.py.
    """

    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, inputs: Array, size: tuple[int, int] | None = None) -> Array:
        """Enlarge to a height and a width, or to twice its own: [B, H, W, C] -> [B, H', W', C]."""
        height, width = size or (2 * inputs.shape[1], 2 * inputs.shape[2])
        inputs = _enlarge(_enlarge(inputs, height, axis=1), width, axis=2)
        return Conv(inputs.shape[-1], dtype=self.dtype, kernels=self.kernels, name="conv")(inputs)


def _enlarge(inputs: Array, size: int, *, axis: int) -> Array:
    """Repeat the positions of an axis, PyTorch's interpolation of mode nearest."""
    old = inputs.shape[axis]
    if size != 2 * old:
        return jnp.take(inputs, np.arange(size) * old // size, axis=axis)
    twice = jnp.stack([inputs, inputs], axis=axis + 1)
    return twice.reshape(*inputs.shape[:axis], size, *inputs.shape[axis + 1 :])
