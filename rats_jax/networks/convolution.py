"""Convolutions of pictures, also in a form whose gradient is fast inside a loop on a CPU.

XLA's CPU backend has one fast kernel for convolutions, of NHWC by HWIO. A pass brings other layouts into
that form (ConvCanonicalization), but only in a program's outermost computation: inside a `lax.scan`, the
gradients of a convolution, whose layouts are others, become plain loops and take several times as long.
Here they are written in that form from the start. The operations are the same, and so are the bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
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
