"""Convolutions of pictures and videos, also in a form whose gradient is fast inside a loop on a CPU.

XLA's CPU backend has one fast kernel for convolutions, of NHWC by HWIO. A pass brings other layouts into
that form (ConvCanonicalization), but only in a program's outermost computation: inside a `lax.scan`, the
gradients of a convolution, whose layouts are others, become plain loops and take several times as long.
Here they are written in that form from the start. The operations are the same, and so are the bits.

A convolution of videos is a sum of convolutions of their frames, one for each tap in time. Frames that are
zero are left out, and on a CPU the sum is several times as fast as one convolution of three dimensions, whose
kernel there is slow in any form.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from rats_jax.types import Array

_FORM = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC"))
_Pairs = tuple[tuple[int, int], ...]

ConvolveFn = Callable[[Array, Array, tuple[int, ...], _Pairs], Array]
"""(inputs [B, H, W, I], kernel [h, w, I, O] of the same dtype, strides, padding) -> [B, H', W', O]."""

_convolve = functools.partial(lax.conv_general_dilated, dimension_numbers=_FORM)


def convolve(inputs: Array, kernel: Array, strides: tuple[int, ...], padding: _Pairs) -> Array:
    """Convolve as XLA does.

    Args:
        inputs: [B, H, W, I].
        kernel: [h, w, I, O], of the inputs' dtype.
        strides: of height and width.
        padding: before and after height, before and after width.

    Returns:
        [B, H', W', O].
    """
    return _convolve(inputs, kernel, strides, padding)


def convolve_in_loops(inputs: Array, kernel: Array, strides: tuple[int, ...], padding: _Pairs) -> Array:
    """Convolve as `convolve`, bit for bit, with a gradient for loops on a CPU; reverse mode only."""
    outputs: Any = _convolve_in_loops(inputs, kernel, strides, padding)
    return outputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_in_loops(inputs: Array, kernel: Array, strides: tuple[int, ...], padding: _Pairs) -> Array:
    return _convolve(inputs, kernel, strides, padding)


def _forward(
    inputs: Array, kernel: Array, strides: tuple[int, int], padding: _Pairs
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(inputs, kernel, strides, padding), (inputs, kernel)


def _backward(
    strides: tuple[int, int], padding: _Pairs, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    inputs, kernel = saved
    to_inputs, to_kernel = [], []
    for axis in (0, 1):
        size, reach, before = inputs.shape[1 + axis], kernel.shape[axis] - 1, padding[axis][0]
        spread = (cotangent.shape[1 + axis] - 1) * strides[axis] + 1  # the cotangent, with gaps
        to_inputs.append((reach - before, size - spread + before))
        to_kernel.append((before, reach + spread - size - before))
    turned = lax.rev(kernel, (0, 1)).transpose(0, 1, 3, 2)
    of_inputs = _convolve(cotangent, turned, (1, 1), to_inputs, lhs_dilation=strides)
    images, window = inputs.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3)
    of_kernel = _convolve(images, window, (1, 1), to_kernel, rhs_dilation=strides)
    return of_inputs, of_kernel.transpose(1, 2, 0, 3)


_convolve_in_loops.defvjp(_forward, _backward)


def convolve_frames(
    frames: Array, kernel: Array, padding: _Pairs, *, before: int, stride: int, convolve: ConvolveFn
) -> Array:
    """Convolve videos in time, height and width; no frame reads a later one than the window's last.

    output_o = sum_k convolve(frame_{o * stride + k - before}, kernel_k), where frames before the first are 0.

    Args:
        frames: [B, T, H, W, I].
        kernel: [t, h, w, I, O], of the frames' dtype.
        padding: before and after height, before and after width.
        before: zero frames ahead of the first; t - 1 keeps as many as there are.
        stride: in time.
        convolve: of pictures, e.g. that of a device.

    Returns:
        [B, T', H', W', O] with T' = (T + before - t) // stride + 1, differentiable in frames and kernel.
    """
    chex.assert_rank([frames, kernel], 5)
    taps, (batch, length) = kernel.shape[0], frames.shape[:2]
    count = max((length + before - taps) // stride + 1, 0)
    total: Any = None
    for tap in range(taps):
        # Outputs for which this tap lies before the first frame.
        skipped = max(-((tap - before) // stride), 0)
        start = skipped * stride + tap - before
        if skipped >= count:
            continue
        read = frames[:, start : start + (count - skipped - 1) * stride + 1 : stride]
        outputs = convolve(read.reshape(-1, *read.shape[2:]), kernel[tap], (1, 1), padding)
        outputs = outputs.reshape(batch, count - skipped, *outputs.shape[1:])
        outputs = jnp.pad(outputs, ((0, 0), (skipped, 0), (0, 0), (0, 0), (0, 0)))
        total = outputs if total is None else total + outputs
    if total is None:  # too few frames for a window
        picture = jax.ShapeDtypeStruct((batch, *frames.shape[2:]), frames.dtype)
        like = jax.eval_shape(lambda x: convolve(x, kernel[0], (1, 1), padding), picture)
        return jnp.zeros((batch, 0, *like.shape[1:]), frames.dtype)
    return total
