"""Networks that draw their own weights, and the shapes of weights, traced once for each network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from rats_jax.types import Key, Params


class Network(nn.Module):
    """A network that draws its own weights; the base of those that a config.json describes."""

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights."""
        raise NotImplementedError

    def abstract_params(self) -> Params:
        """Give the tree of the weights with shapes and dtypes in place of numbers."""
        return abstract_params(type(self).init_params, self)


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
