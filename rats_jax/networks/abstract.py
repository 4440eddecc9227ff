"""Shapes of a network's weights, traced once for each network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from rats_jax.types import Params


def abstract_params(init_fn: Callable[[Any, Any], Params], module: Any) -> Params:
    """Give the tree of a network's weights with shapes and dtypes in place of numbers.

    Args:
        init_fn: (module, key) -> weights.
        module: the network, hashable as flax modules are; equal ones are traced once.

    Returns:
        A nested dict of jax.ShapeDtypeStruct, the caller's own.
    """
    return jax.tree.map(lambda leaf: leaf, _trace(init_fn, module))


@functools.lru_cache(maxsize=64)
def _trace(init_fn: Callable[[Any, Any], Params], module: Any) -> Params:
    return jax.eval_shape(lambda: init_fn(module, jax.random.key(0)))
