"""Stacks: layers of one kind that follow each other, as one tree of weights and one loop.

What is compiled is one layer, however many there are, and the gradient keeps what enters each layer and
computes the rest again. The weights of layers `first` to `last` of the list `blocks` lie under
`blocks_FIRST_to_LAST`, each with a leading axis of layers; `weights/naming.py` finds them in files by that
name.
"""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn

ADAPTERS = "adapters"
"""The collection of a network's variables in which its low-rank adapters lie, see `networks/lora.py`."""

STACK_NAME = re.compile(r"(.+)_(\d+)_to_(\d+)")
"""Name of a list, first layer, last layer."""


def stack(block: type[nn.Module], list_name: str, first: int, count: int, **attributes: Any) -> Any:
    """Make a module that runs several layers one after another.

    Args:
        block: class of a layer, whose `__call__` takes what is carried from layer to layer, then what all
            layers read, and gives (carried, None).
        list_name: of the layers in PyTorch's network.
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
    return layers(**attributes, name=f"{list_name}_{first}_to_{first + count - 1}")
