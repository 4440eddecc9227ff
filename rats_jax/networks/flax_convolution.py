"""Convolutions whose gradient is fast inside a loop on a CPU.

XLA's CPU backend has one fast kernel for convolutions, of NHWC by HWIO. A pass brings other layouts into
that form (ConvCanonicalization), but only in a program's outermost computation: inside a `lax.scan`, the
gradients of a convolution, whose layouts are others, become plain loops and take several times as long.
Here they are written in that form from the start. The operations are the same, and so are the bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.linen.linear import canonicalize_padding
from jax import lax

from rats_jax.types import Array

_FORM = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC"))
_Pairs = tuple[tuple[int, int], ...]

_convolve = functools.partial(lax.conv_general_dilated, dimension_numbers=_FORM)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(inputs: Array, kernel: Array, strides: tuple[int, ...], padding: _Pairs) -> Array:
    """Convolve as `lax.conv_general_dilated`, with a gradient for loops on a CPU; reverse mode only.

    Args:
        inputs: [B, H, W, I].
        kernel: [h, w, I, O], of the inputs' dtype.
        strides: of height and width.
        padding: before and after height, before and after width.

    Returns:
        [B, H', W', O].
    """
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


convolve.defvjp(_forward, _backward)


def with_loop_convolutions(apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Let the plain two-dimensional convolutions of a flax.linen network go through `convolve`.

    Args:
        apply_fn: a function that applies such a network.

    Returns:
        The same function, with the same values and gradients.
    """
    return nn.intercept_methods(_replace)(apply_fn)


def _replace(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module: Any = context.module
    if context.method_name != "__call__" or not isinstance(module, nn.Conv) or not _is_plain(module, *args):
        return next_fn(*args, **kwargs)
    params = module.variables["params"]
    weights = params["kernel"], params.get("bias")
    promoted: Any = module.promote_dtype(*args, *weights, dtype=module.dtype)
    inputs, kernel, bias = promoted
    strides, padding = _pair(module.strides), canonicalize_padding(module.padding, 2)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
    outputs: Any = convolve(inputs, kernel, strides, tuple(map(tuple, padding)))
    return outputs if bias is None else outputs + bias


def _is_plain(module: Any, inputs: Array) -> bool:
    """Tell whether `convolve` can do what a module does; all else is left to it."""
    return (
        inputs.ndim == 4
        and _pair(module.kernel_dilation) == _pair(module.input_dilation) == (1, 1)
        and module.feature_group_count == 1
        and module.padding not in ("CIRCULAR", "REFLECT", "CAUSAL")
        and module.mask is module.precision is None
        and module.conv_general_dilated is module.conv_general_dilated_cls is None
    )


def _pair(value: Any) -> tuple[int, ...]:
    """Read a module's strides or dilation: None is 1, and one number counts for both axes."""
    return (value or 1,) * 2 if value is None or isinstance(value, int) else tuple(value)
