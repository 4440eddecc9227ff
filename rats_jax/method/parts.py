"""Parts of a batch, passed through a function one after another: less memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rats_jax.types import Array, Params


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


def mean_gradient(
    loss_fn: Callable[..., tuple[Array, Any]], params: Params, inputs: Any, num_parts: int
) -> tuple[Params, Any]:
    """Average the gradient of a loss over equal parts of a batch, taken one after another.

    Args:
        loss_fn: (params, *inputs) -> (loss [], a tree of what is measured).
        params: what the gradient is with respect to.
        inputs: a tuple of pytrees of [B, ...].
        num_parts: divides B.

    Returns:
        The gradient, a tree like params, and what was measured, with an axis [num_parts] in front if there is
        more than one part.
    """
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if num_parts == 1:
        return grad_fn(params, *inputs)

    def add(total: Params, part: Any) -> tuple[Params, Any]:
        grads, measured = grad_fn(params, *part)
        return jax.tree.map(jnp.add, total, grads), measured

    zeros = jax.tree.map(jnp.zeros_like, params)
    total, measured = jax.lax.scan(add, zeros, jax.tree.map(lambda x: cut(x, num_parts), inputs))
    return jax.tree.map(lambda g: g / num_parts, total), measured
