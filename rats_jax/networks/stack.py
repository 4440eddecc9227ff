"""Stacks: layers of one kind that follow each other, as one tree of weights and one loop.

What is compiled is one layer, however many there are, and the gradient keeps what enters each layer and
computes the rest again. The weights of layers FIRST to LAST of the list `blocks` lie under
`blocks_FIRST_to_LAST`, each with a leading axis of layers, and of a list without a name under
`FIRST_to_LAST`; `weights/naming.py` finds them in files by that name.
"""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn

ADAPTERS = "adapters"
"""The collection of a network's variables in which its low-rank adapters lie, see `networks/lora.py`."""

STACK_NAME = re.compile(r"(?:(.+)_)?(\d+)_to_(\d+)")
"""Name of a list, or None; first layer, last layer."""
_LEAST_LAYERS = 4  # of a stack: fewer compile about as fast one by one


def stack(block: type[nn.Module], list_name: str, first: int, count: int, **attributes: Any) -> Any:
    """Make a module that runs several layers one after another.

    Args:
        block: class of a layer, whose `__call__` takes what is carried from layer to layer, then what all
            layers read, and gives (carried, None).
        list_name: of the layers in PyTorch's network, '' where their names are numbers.
        first: number of the first one in that list.
        count: of layers, at least 1.
        attributes: of each layer.

    Returns:
        The module; it is called as a layer is.
    """
    layers = nn.scan(
        nn.remat(block, prevent_cse=False),
        variable_axes={"params": 0, ADAPTERS: 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
        length=count,
    )
    return layers(**attributes, name=_name(list_name, f"{first}_to_{first + count - 1}"))


def run_layers(
    block: type[nn.Module],
    list_name: str,
    count: int,
    carried: Any,
    *inputs: Any,
    **attributes: Any,
) -> Any:
    """Run the first layers of a list: as a stack where that pays, else one by one.

    Args:
        block: as of `stack`.
        list_name: of the layers in PyTorch's network, '' where their names are numbers.
        count: of layers, from number 0 on; may be 0.
        carried: what enters the first layer; a stack gives it back in the same shape and dtype.
        inputs: what all layers read.
        attributes: of each layer.

    Returns:
        What leaves the last layer.
    """
    if count >= _LEAST_LAYERS:
        return stack(block, list_name, 0, count, **attributes)(carried, *inputs)[0]
    make: Any = block
    for index in range(count):
        carried, _ = make(**attributes, name=_name(list_name, str(index)))(carried, *inputs)
    return carried


def _name(list_name: str, layers: str) -> str:
    return f"{list_name}_{layers}" if list_name else layers
