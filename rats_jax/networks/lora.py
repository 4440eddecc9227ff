"""Low-rank adapters of a network's linear layers and convolutions, without a second copy of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.types import Array, DenoiseFn, Params


def init_adapters(abstract_params: Params, *, targets: str, rank: int, seed: int) -> Params:
    """Draw adapters that change nothing yet: `down` is normal of deviation 1 / rank, `up` is zero.

    Args:
        abstract_params: of the network, nested dict of leaves with a shape.
        targets: regular expression, searched in the path of a layer, e.g. 'mid_block/.*/to_q'.
        rank: r.
        seed: of `down`.

    Returns:
        A tree of the layers that match, each {"down": [..., in, r], "up": [r, out]}, float32 NumPy arrays.

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
        adapters |= {(*path, "down"): down, (*path, "up"): np.zeros((rank, shape[-1]), np.float32)}
    return unflatten_dict(adapters)


def with_adapters(denoise_fn: DenoiseFn, *, scale: float) -> DenoiseFn:
    """Let a network run with adapters: each layer gives W x + scale * up(down(x)).

    The product of the two is never formed, so the base needs neither a merged copy nor a gradient.

    Args:
        denoise_fn: of a flax.linen network.
        scale: alpha / rank.

    Returns:
        A DenoiseFn whose params are {"base": weights, "adapters": from `init_adapters`, or {} for none};
        differentiable in both.
    """

    def adapted_fn(params: Params, latents: Array, timestep: Array, embeds: Any) -> Array:
        def add(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
            outputs = next_fn(*args, **kwargs)
            adapter = _find(params["adapters"], context.module.path)
            if adapter is None or context.method_name != "__call__":
                return outputs
            rank = adapter["up"].shape[0]
            down = context.module.clone(features=rank, use_bias=False, parent=None, name=None)
            hidden = cast(jax.Array, down.apply({"params": {"kernel": adapter["down"]}}, *args))
            return outputs + scale * (hidden @ adapter["up"].astype(hidden.dtype))

        with nn.intercept_methods(add):
            return denoise_fn(params["base"], latents, timestep, embeds)

    return adapted_fn


def merge_adapters(params: Params, adapters: Params, *, scale: float) -> Params:
    """Give the weights of a network without adapters that computes what one with them does.

    W + scale * down @ up, in float32; of a convolution, at each position of its kernel.

    Args:
        params: of the network, nested dict of NumPy arrays or of what is still in its files.
        adapters: from `init_adapters`, trained.
        scale: alpha / rank.

    Returns:
        A tree like `params`, whose adapted kernels are new NumPy arrays and whose other leaves are the same.
    """
    flat = dict(cast(Mapping[tuple[str, ...], Any], flatten_dict(params)))
    trained = cast(Mapping[tuple[str, ...], Any], flatten_dict(adapters))
    for path in {path[:-1] for path in trained}:
        down, up = (np.asarray(trained[*path, name], np.float32) for name in ("down", "up"))
        flat[*path, "kernel"] = np.asarray(flat[*path, "kernel"], np.float32) + scale * (down @ up)
    return unflatten_dict(flat)


def _find(adapters: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(adapters, Mapping) or name not in adapters:
            return None
        adapters = adapters[name]
    return adapters if "up" in adapters and "down" in adapters else None
