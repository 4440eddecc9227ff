"""Arguments of `from_pretrained`, PyTorch's way to open a folder or a model of the hub."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from rats_jax.paths import is_hub_id, resolve_path
from rats_jax.weights.state_dict import StateDict


def place_of(path: str) -> tuple[str, dict[str, Any]]:
    """Give a folder or hub id, and the revision where one is named: 'owner/name@revision'."""
    if not is_hub_id(path):
        return str(resolve_path(path)), {}
    name, _, revision = path.partition("@")
    return name, {"revision": revision} if revision else {}


def variant_of(file: str) -> dict[str, Any]:
    """Give the variant that a file of weights is of, as 'fp16', or nothing."""
    found = re.search(r"\.(fp16|bf16)\.", file)
    return {"variant": found[1]} if found else {}


def to_tensors(state: StateDict) -> dict[str, Any]:
    """Turn the weights of a file into tensors, float32 where they are floats."""
    import torch

    def convert(value: Any) -> Any:
        array = np.array(value)
        return torch.from_numpy(array if array.dtype.kind in "iub" else array.astype(np.float32))

    return {name: convert(value) for name, value in state.items()}
