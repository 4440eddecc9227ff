"""Passing a batch through a function in parts, one after another: less memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rats_jax.types import Array


def cut(x: Array, num_parts: int) -> Array:
    """Cut a batch [B, ...] into [num_parts, B / num_parts, ...].

    Every part takes samples of every device, so a batch that is spread over devices stays where it is.
    """
    return jnp.moveaxis(x.reshape(x.shape[0] // num_parts, num_parts, *x.shape[1:]), 1, 0)


def join(x: Array) -> Array:
    """Undo `cut`."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def in_parts(fn: Callable[..., Any], num_parts: int) -> Callable[..., Any]:
    """Apply a function of samples to one part of a batch after another.

    Args:
        fn: (params, *pytrees of [B, ...]) -> pytree of [B, ...]; each sample by itself.
        num_parts: divides B; 1 gives `fn` itself.

    Returns:
        The same function; with more than one part its gradient computes each part again.
    """
    if num_parts == 1:
        return fn

    def run(params: Any, *batched: Any) -> Any:
        part_fn = jax.checkpoint(lambda part: fn(params, *part))
        parts = jax.tree.map(lambda x: cut(x, num_parts), batched)
        return jax.tree.map(join, jax.lax.map(part_fn, parts))

    return run
