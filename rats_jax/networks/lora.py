"""Low-rank adapters of a network's linear layers and convolutions, without a second copy of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.networks.int8 import SCALE, apply_int8, is_stack
from rats_jax.networks.stack import ADAPTERS
from rats_jax.types import Array, DenoiseFn, Params


def init_adapters(abstract_params: Params, *, targets: str, rank: int, seed: int) -> Params:
    """Draw adapters that change nothing yet: `down` is normal of deviation 1 / rank, `up` is zero.

    Args:
        abstract_params: of the network, nested dict of leaves with a shape.
        targets: regular expression, searched in the path of a layer, e.g. 'mid_block/.*/to_q'.
        rank: r.
        seed: of `down`.

    Returns:
        A tree of the layers that match, each {"down": [..., in, r], "up": [r, out]}, float32 NumPy arrays; in
        a stack of N layers {"down": [N, in, r], "up": [N, r, out]}.

    Raises:
        ValueError: no layer matches.

    Source: Hu et al., LoRA, arXiv 2106.09685, section 4.1.
    """
    flat = cast(Mapping[tuple[str, ...], Any], flatten_dict(abstract_params))
    kernels = {path[:-1]: leaf.shape for path, leaf in flat.items() if path[-1] == "kernel"}
    chosen = {path: shape for path, shape in kernels.items() if re.search(targets, "/".join(path))}
    if not chosen:
        raise ValueError(f"targets={targets!r}: expected an expression that a layer of the network matches")
    rng = np.random.default_rng(seed)
    adapters = {}
    for path, shape in chosen.items():
        down = rng.normal(scale=1 / rank, size=(*shape[:-1], rank)).astype(np.float32)
        layers = shape[:1] if is_stack(shape) else ()
        adapters |= {(*path, "down"): down, (*path, "up"): np.zeros((*layers, rank, shape[-1]), np.float32)}
    return unflatten_dict(adapters)


class Adapted(NamedTuple):
    """Weights of a network that runs with adapters, in the place of its weights alone.

    Attributes:
        base: of the network.
        adapters: from `init_adapters`, or {} for none.
    """

    base: Params
    adapters: Params


def variables(params: Params) -> dict[str, Params]:
    """Give what `flax.linen.Module.apply` takes, of weights or of `Adapted` ones."""
    if isinstance(params, Adapted):
        return {"params": params.base, ADAPTERS: params.adapters}
    return {"params": params}


def with_adapters(denoise_fn: DenoiseFn, *, scale: float) -> DenoiseFn:
    """Let a network run with adapters: each layer gives W x + scale * up(down(x)).

    The product of the two is never formed, so the base needs neither a merged copy nor a gradient. It may
    hold kernels in 8 bits, see `networks/int8.py`.

    Args:
        denoise_fn: applies a flax.linen network to the `variables` of its params.
        scale: alpha / rank.

    Returns:
        A DenoiseFn whose params are `Adapted`; differentiable in both.
    """

    def add(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if context.method_name != "__call__":
            return next_fn(*args, **kwargs)
        is_int8 = layer.has_variable("params", SCALE)
        outputs = apply_int8(layer, *args) if is_int8 else next_fn(*args, **kwargs)
        if not layer.has_variable(ADAPTERS, "up"):
            return outputs
        down, up = (layer.get_variable(ADAPTERS, name) for name in ("down", "up"))
        narrow = layer.clone(features=up.shape[0], use_bias=False, parent=None, name=None)
        hidden = cast(jax.Array, narrow.apply({"params": {"kernel": down}}, *args))
        return outputs + scale * (hidden @ up.astype(hidden.dtype))

    def adapted_fn(params: Params, latents: Array, timestep: Array, embeds: Any) -> Array:
        with nn.intercept_methods(add):
            return denoise_fn(params, latents, timestep, embeds)

    return adapted_fn


def merge_adapters(params: Params, adapters: Params, *, scale: float, dtype: Any = np.float32) -> Params:
    """Give the weights of a network without adapters that computes what one with them does.

    W + scale * down @ up, in float32; of a convolution, at each position of its kernel.

    Args:
        params: of the network, nested dict of NumPy arrays or of what is still in its files.
        adapters: from `init_adapters`, trained.
        scale: alpha / rank.
        dtype: of the new kernels; one at a time is float32.

    Returns:
        A tree like `params`, whose adapted kernels are new NumPy arrays and whose other leaves are the same.
    """
    flat = dict(cast(Mapping[tuple[str, ...], Any], flatten_dict(params)))
    trained = cast(Mapping[tuple[str, ...], Any], flatten_dict(adapters))
    for path in {path[:-1] for path in trained}:
        down, up = (np.asarray(trained[*path, name], np.float32) for name in ("down", "up"))
        kernel = np.asarray(flat[*path, "kernel"], np.float32) + scale * (down @ up)
        flat[*path, "kernel"] = kernel.astype(dtype)
    return unflatten_dict(flat)
