"""Multiply-adds of one instruction in the text of a compiled program: products, convolutions, kernels.

A GPU's program calls cuDNN and cuBLAS for most of them, which say in their attributes what they compute.
"""

from __future__ import annotations

import base64
import math
import re

from rats_jax.aot.flops import conv_flops, dot_flops
from rats_jax.aot.hlo_text import TARGET, dims, first, integers

_NOT_SPATIAL = ("bf", "oi", "bf")  # labels of a convolution's input, kernel and result
_KERNEL = re.compile(r'"body":"([^"]*)"')
_OPAQUE = re.compile(r"matmul|gemm|dot|conv(?!ert)|attention|dnn", re.IGNORECASE)
_FLASH = re.compile(r"splash_mha_(fwd|dkv|dq)_")
_FLASH_DOTS = {"fwd": 2, "dkv": 4, "dq": 3}  # each as large as queries @ keys
_CONTRACTING = re.compile(r"\blhs_contracting_dims=\{([\d,]*)\}")
_LABELS = re.compile(r"\bdim_labels=([\w>-]+)")
_WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")
_CUBLAS = re.compile(r"__cublas\$(gemm|lt\$matmul)")
_CUBLAS_CONTRACTING = re.compile(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
_CUDNN_CONVOLUTION = re.compile(r"__cudnn\$conv(Forward|BiasActivationForward|BackwardInput|BackwardFilter)$")
# Which of operands and result are the input, the kernel and the output of the convolution that it is of.
_CONVOLUTION_ROLES = {"BackwardInput": (2, 1, 0), "BackwardFilter": (0, 2, 1)}
_CUDNN_ATTENTION = re.compile(r"__cudnn\$fmha\w*?(Backward)?$")
_SCORES = re.compile(r'"intermediate_tensor_shape": *\{"element_type": *"\w+", *"dimensions": *\[([^\]]*)\]')
_CUDNN_WITHOUT_PRODUCTS = ("__cudnn$norm",)


def product_flops(label: str, opcode: str, kind: str, types: list[str], tail: str) -> float:
    """Count a dot or a convolution.

    Args:
        label: the name of the instruction.
        opcode: 'dot', 'convolution' or 'ragged-dot'.
        kind: type of the result, as text.
        types: of the operands.
        tail: the rest of the line, from the first operand on.

    Returns:
        2 * the multiply-adds.

    Raises:
        ValueError: a ragged dot.
    """
    if opcode == "ragged-dot":
        raise ValueError(f"{label}: the multiply-adds of a ragged dot depend on its data")
    lhs, rhs, out = map(dims, (*types, kind))
    if opcode == "dot":
        return dot_flops(lhs, out, integers(first(_CONTRACTING, tail)))
    return _convolution_flops(lhs, rhs, out, tail)


def call_flops(label: str, kind: str, types: list[str], tail: str) -> float:
    """Count a custom call: a kernel of XLA's, of ours or of a library.

    Args: as of `product_flops`.

    Raises:
        ValueError: one that may multiply and does not say how much.
    """
    target = first(TARGET, tail)
    if label.startswith("online-softmax"):  # XLA:TPU's own kernel: softmax(scores) @ values
        scores = dims(types[0])
        return dot_flops(scores, dims(kind), [len(scores) - 1])
    if found := _FLASH.match(label):
        # Two masks, then queries and keys [..., L, D]; a single head of a single picture has no axis before.
        query, key = [dims(operand) for operand in types if operand.startswith(("bf16", "f32"))][:2]
        return _FLASH_DOTS[found[1]] * 2.0 * math.prod(query) * key[-2]
    if _CUBLAS.match(target):
        return dot_flops(dims(types[0]), dims(kind), integers(first(_CUBLAS_CONTRACTING, tail)))
    if found := _CUDNN_CONVOLUTION.match(target):
        arrays = [dims(types[0]), dims(types[1]), dims(kind)]
        lhs, rhs, out = (arrays[i] for i in _CONVOLUTION_ROLES.get(found[1], (0, 1, 2)))
        return _convolution_flops(lhs, rhs, out, tail)
    if found := _CUDNN_ATTENTION.match(target):
        scores, features = integers(first(_SCORES, tail)), dims(types[0])[-1]
        # The gradient computes the scores once more, and has four products of their size.
        return (5 if found[1] else 2) * 2.0 * math.prod(scores) * features
    kernel = base64.b64decode(first(_KERNEL, tail))
    hidden = b"matmul" in kernel or b"contract" in kernel if kernel else target == "tpu_custom_call"
    if hidden or (_OPAQUE.search(target) and target not in _CUDNN_WITHOUT_PRODUCTS):
        raise ValueError(f"{label}: the multiply-adds of the custom call {target!r} are out of sight")
    return 0.0


def _convolution_flops(lhs: list[int], rhs: list[int], out: list[int], tail: str) -> float:
    spatial = "0123456789"[: len(lhs) - 2]
    window = dict(item.split("=") for item in first(_WINDOW, tail).split())
    strides, lhs_dilation, rhs_dilation = (
        integers(window.get(key, "1x" * len(spatial))) for key in ("stride", "lhs_dilate", "rhs_dilate")
    )
    labels = re.split("_|->", first(_LABELS, tail))
    return conv_flops(
        lhs,
        rhs,
        out,
        specs=[[x.index(c) for c in y + spatial] for x, y in zip(labels, _NOT_SPATIAL, strict=True)],
        strides=strides,
        pads_low=integers(window.get("pad", "0_0x" * len(spatial)))[::2],
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
    )
