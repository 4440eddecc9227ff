"""Attention without a matrix of all scores, where the hardware has a kernel for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from diffusers.models.attention_flax import FlaxAttention

from rats_jax.types import Array

AttendFn = Callable[[Array, Array, Array], Array]
"""Queries [B, T, N, H], keys and values [B, S, N, H] -> [B, T, N, H]."""

# What the kernels of cuDNN take on every GPU that has them.
_MOST_FEATURES, _FEATURES_STEP, _LENGTHS_STEP = 128, 8, 64


def find_attend_fn(device: Any) -> AttendFn | None:
    """Find the kernel of a device: cuDNN's flash attention on NVIDIA's GPUs from Ampere on, else None.

    Args:
        device: of the mesh.
    """
    if device.platform != "gpu" or "cuda" not in device.client.platform_version:
        return None
    if float(device.compute_capability) < 8.0:
        return None
    return functools.partial(jax.nn.dot_product_attention, implementation="cudnn")


def with_attention(apply_fn: Callable[..., Any], attend_fn: AttendFn) -> Callable[..., Any]:
    """Let the attention of a UNet of diffusers go through `attend_fn`, layer by layer where it can.

    A kernel takes 16-bit numbers, up to 128 features a head, a multiple of 8, and lengths that are multiples
    of 64; other layers stay as they are, among them those that attend to the 77 tokens of a prompt.

    Args:
        apply_fn: a function that applies such a network.
        attend_fn: takes the place of softmax(Q K^T / sqrt(H)) V.

    Returns:
        The same function, with the same values and gradients up to rounding.
    """

    def replace(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name == "__call__" and isinstance(module, FlaxAttention) and _fits(module, *args):
            return _attend(module, attend_fn, *args)
        return next_fn(*args, **kwargs)

    return nn.intercept_methods(replace)(apply_fn)


def _fits(module: FlaxAttention, hidden: Array, context: Array | None = None) -> bool:
    lengths = [x.shape[1] for x in (hidden, context) if x is not None]
    return (
        jnp.dtype(module.dtype).itemsize == 2
        and module.dim_head <= _MOST_FEATURES
        and module.dim_head % _FEATURES_STEP == 0
        and all(length % _LENGTHS_STEP == 0 for length in lengths)
    )


def _attend(module: Any, attend_fn: AttendFn, hidden: Array, context: Array | None = None) -> Array:
    context = hidden if context is None else context

    def split(x: Array) -> Array:
        return x.reshape(*x.shape[:2], module.heads, module.dim_head)

    projected = module.query(hidden), module.key(context), module.value(context)
    attended = attend_fn(*map(split, projected))
    return module.proj_attn(attended.reshape(*attended.shape[:2], -1))
