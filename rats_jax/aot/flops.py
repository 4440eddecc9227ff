"""Floating-point operations that a function asks for, counted before XLA touches it.

Only dots and convolutions count: all else is small beside them, and a device's peak is stated for them.
`rats_jax.aot.hlo` counts the same in a compiled program, with the arithmetic that is here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

# cuDNN's attention, which reads queries and keys first, and its products as large as queries @ keys; the
# gradient computes them again.
_CUDNN_PRODUCTS = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}
# What multiplies and adds out of sight; a count without them would be too low and not say so.
_OPAQUE = frozenset({"ffi_call", "ragged_dot_general", "scaled_matmul_wrapper", "custom_linear_solve"})


@functools.cache
def useful_taps(
    inputs: int, outputs: int, taps: int, *, stride: int, pad_low: int, lhs_dilate: int, rhs_dilate: int
) -> int:
    """Count, along one spatial dimension, the pairs (output position, tap) that meet an input element.

    A tap in the padding, or in a hole that the dilation of the input leaves, multiplies a zero that nobody
    asked for. Without these pairs a convolution and its two gradients count the same, and so do a batched dot
    and the dilated convolution as which a TPU runs it.

    Args:
        inputs: length of the input, before dilation and padding.
        outputs: length of the output.
        taps: length of the kernel, before dilation.
        stride: steps in the dilated input from one output position to the next, >= 1.
        pad_low: padding before the first input element; negative cuts.
        lhs_dilate: steps in the dilated input from one input element to the next, >= 1.
        rhs_dilate: steps from one tap to the next, >= 1.

    Returns:
        The number of pairs, from 0 to outputs * taps. The order of the taps does not change it.
    """
    # Either may be as long as an image: in the weight's gradient the taps are the positions of the output.
    (many, many_step), (few, few_step) = sorted(((outputs, stride), (taps, rhs_dilate)), reverse=True)
    positions = np.arange(many, dtype=np.int64) * many_step - pad_low
    pairs = 0
    for start in range(0, few * few_step, few_step):
        index, hole = np.divmod(positions + start, lhs_dilate)
        pairs += int(np.count_nonzero((hole == 0) & (index >= 0) & (index < inputs)))
    return pairs


def dot_flops(lhs: Sequence[int], out: Sequence[int], contracting: Iterable[int]) -> float:
    """Count a dot, batched or not: 2 flops for each multiply-add.

    Args:
        lhs: shape of the left operand.
        out: shape of the result, batch dimensions included.
        contracting: the dimensions of `lhs` that are summed over.

    Returns:
        The flops, >= 0.
    """
    return 2.0 * math.prod(out) * math.prod(lhs[i] for i in contracting)


def conv_flops(
    lhs: Sequence[int],
    rhs: Sequence[int],
    out: Sequence[int],
    *,
    specs: Sequence[Sequence[int]],
    strides: Sequence[int],
    pads_low: Sequence[int],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
) -> float:
    """Count a convolution: 2 flops for each multiply-add with an input element.

    Groups, of features or of the batch, need no argument: each element of the result sums over as many input
    features as the kernel has.

    Args:
        lhs: shape of the input.
        rhs: shape of the kernel.
        out: shape of the result.
        specs: of input, kernel and result, which dimension is which: batch (of the kernel, output feature),
            then feature (of the kernel, input feature of one group), then the spatial ones.
        strides: of each spatial dimension, as all that follow; see `useful_taps`.
        pads_low: padding before the first input element.
        lhs_dilation: of the input.
        rhs_dilation: of the kernel.

    Returns:
        The flops, >= 0.
    """
    lhs_spec, rhs_spec, out_spec = specs
    pairs = (
        useful_taps(
            lhs[lhs_spec[2 + i]],
            out[out_spec[2 + i]],
            rhs[rhs_spec[2 + i]],
            stride=stride,
            pad_low=pads_low[i],
            lhs_dilate=lhs_dilation[i],
            rhs_dilate=rhs_dilation[i],
        )
        for i, stride in enumerate(strides)
    )
    return 2.0 * out[out_spec[0]] * out[out_spec[1]] * rhs[rhs_spec[1]] * math.prod(pairs)


def count_flops(fn: Callable[..., Any], *args: Any) -> float:
    """Count the flops of one call, on all devices together, from its trace.

    Of a `cond` the most expensive branch counts, of `remat` all that is computed again, of a Pallas kernel
    its body at each point of its grid.

    Args:
        fn: a function of pytrees of arrays that jax can trace.
        *args: its arguments, pytrees of arrays or of jax.ShapeDtypeStruct; nothing is computed.

    Returns:
        2 * the multiply-adds of every dot and convolution; of a convolution those of `useful_taps`.

    Raises:
        ValueError: if a while loop, whose trip count a trace does not say, holds a dot or a convolution, or
            if a primitive (a foreign call, a ragged dot) multiplies out of sight.
    """
    return jaxpr_flops(jax.make_jaxpr(fn)(*args).jaxpr)


def jaxpr_flops(jaxpr: Any) -> float:
    """Count the flops of a trace: see `count_flops`."""
    return sum((_equation_flops(equation) for equation in jaxpr.eqns), start=0.0)


def _equation_flops(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracting, _), _ = params["dimension_numbers"]
        return dot_flops(equation.invars[0].aval.shape, equation.outvars[0].aval.shape, contracting)
    if name == "conv_general_dilated":
        lhs, rhs, out = (variable.aval.shape for variable in (*equation.invars, *equation.outvars))
        return conv_flops(
            lhs,
            rhs,
            out,
            specs=params["dimension_numbers"],
            strides=params["window_strides"],
            pads_low=[low for low, _ in params["padding"]],
            lhs_dilation=params["lhs_dilation"],
            rhs_dilation=params["rhs_dilation"],
        )
    if name in _CUDNN_PRODUCTS:
        (batch, queries, heads, features), (_, keys, *_) = (x.aval.shape for x in equation.invars[:2])
        return _CUDNN_PRODUCTS[name] * 2.0 * batch * queries * keys * heads * features
    if name in _OPAQUE:
        raise ValueError(f"{name}: its multiply-adds cannot be counted from the trace")
    inner = [jaxpr_flops(jaxpr) for jaxpr in _jaxprs(params.values())]
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError(f"while at {equation.source_info.name_stack}: the trace does not say its trip count")
    return _repeats(name, params) * sum(inner, start=0.0)


def _repeats(name: str, params: Mapping[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].static_grid)
    if name == "shard_map":  # the body is what one device does along the axes that become manual here
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1


def _jaxprs(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the jaxprs among the parameters of an equation: itself, closed, or in a tuple."""
    for value in values:
        if hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)
        elif isinstance(value, tuple | list):
            yield from _jaxprs(value)
