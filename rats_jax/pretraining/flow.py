"""Train a flow from noise to pictures or videos, and distil guidance into the number it is told.

The flow is trained with prompts dropped at random. The second training, of models like FLUX.1 [dev], starts
from it and fits, for a guidance scale drawn anew for every picture, what two evaluations of the first give
together, so that one evaluation does.

Source: Lipman et al., Flow Matching, arXiv 2210.02747; Esser et al., arXiv 2403.03206 (noise levels);
Ho and Salimans, arXiv 2207.12598 (guidance); Meng et al., arXiv 2210.03142 (its distillation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.diffusion.grid import shifted
from rats_jax.pretraining.fit import fit_as
from rats_jax.types import Array, Key, Params

DrawFn = Callable[[Any, Key, int], tuple[Array, Mapping[str, Array]]]
"""(data, key, batch size B) -> latents [B, ...] and token ids [B, L] of their prompts by text encoder."""


class Flow(NamedTuple):
    """What is trained.

    Attributes:
        init: key -> weights by folder, those of the transformer under "transformer".
        velocity_fn: (weights, latents [B, ...], token ids by text encoder, sigma [B], guidance scale [B]) ->
            velocity [B, ...]; models that are told no guidance do not read it.
    """

    init: Callable[[Key], Params]
    velocity_fn: Callable[[Params, Array, Mapping[str, Array], Array, Array], Array]


def train_flow(
    flow: Flow,
    data: Any,
    draw_fn: DrawFn,
    empty_ids: Mapping[str, np.ndarray],
    training: Any,
    *,
    shift: float,
    seed: int,
    state_file: Path | None = None,
) -> Params:
    """Minimise the squared error of the velocity, noise minus latents.

    Args:
        flow: what is trained.
        data: what `draw_fn` draws from, kept on the device.
        draw_fn: draws latents and their prompts.
        empty_ids: [L] int32 by text encoder, of the empty prompt.
        training: num_updates, batch_size, learning_rate, ema_decay, prompt_dropout.
        shift: of the noise levels, as in the schedule of sampling.
        seed: of initialisation and draws.
        state_file: see `fit`.

    Returns:
        Averaged weights by folder.
    """

    def loss_fn(params: Params, data: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        key_data, key_noise, key_sigma, key_drop = jax.random.split(key, 4)
        latents, ids = draw_fn(data, key_data, training.batch_size)
        noise, sigma, level = _noise(key_noise, key_sigma, latents, shift)
        drop = jax.random.bernoulli(key_drop, training.prompt_dropout, (latents.shape[0], 1))
        ids = {name: jnp.where(drop, empty_ids[name], ids[name]) for name in ids}
        noisy = (1.0 - level) * latents + level * noise
        output = flow.velocity_fn(params, noisy, ids, sigma, jnp.ones_like(sigma))
        return jnp.mean(jnp.square(output - (noise - latents))), {}

    params = flow.init(jax.random.key(seed))
    return fit_as(training, loss_fn, params, data, seed=seed + 1, name="flow", state_file=state_file)


def init_networks(networks: Mapping[str, Any], key: Key) -> dict[str, Params]:
    """Draw the weights of networks, by their names."""
    keys = jax.random.split(key, len(networks))
    return {
        name: jax.jit(network.init_params)(k)
        for (name, network), k in zip(networks.items(), keys, strict=True)
    }


def start_from_identity(transformer: Params, layers: Sequence[str]) -> Params:
    """Zero the layers that modulate, whose gates then let no block add anything, and the last layer.

    Args:
        transformer: its weights.
        layers: names of the layers or weights that modulate.

    Source: Peebles and Xie, Scalable Diffusion Models with Transformers, arXiv 2212.09748, section 3.2
    (adaLN-Zero).
    """
    flat: Any = flatten_dict(transformer)
    return unflatten_dict(
        {
            path: jnp.zeros_like(leaf) if path[0] == "proj_out" or set(path[-2:]) & set(layers) else leaf
            for path, leaf in flat.items()
        }
    )


def soften_attention(t5: Params, head_dim: int) -> Params:
    """Draw T5's queries smaller: its attention does not divide by sqrt(head_dim), and would start too sharp.

    Source: transformers, models/t5/modeling_t5.py, _init_weights.
    """
    flat: Any = flatten_dict(t5)
    return unflatten_dict(
        {path: leaf * head_dim**-0.5 if path[-2] == "q" else leaf for path, leaf in flat.items()}
    )


def distil_guidance(
    flow: Flow,
    start: Params,
    data: Any,
    draw_fn: DrawFn,
    empty_ids: Mapping[str, np.ndarray],
    training: Any,
    *,
    shift: float,
    seed: int,
    state_file: Path | None = None,
) -> Params:
    """Fit, at every guidance scale, empty + scale * (prompted - empty), in one evaluation.

    Args:
        flow, data, draw_fn, empty_ids, shift, seed, state_file: as of `train_flow`.
        start: weights by folder, of `train_flow`; those of the text encoders stay as they are.
        training: num_updates, batch_size, learning_rate, ema_decay, max_guidance_scale.

    Returns:
        Averaged weights by folder.
    """
    velocity_fn = flow.velocity_fn

    def loss_fn(params: Params, data: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        key_data, key_noise, key_sigma, key_scale = jax.random.split(key, 4)
        start, data = data
        latents, ids = draw_fn(data, key_data, training.batch_size)
        noise, sigma, level = _noise(key_noise, key_sigma, latents, shift)
        scale = jax.random.uniform(key_scale, sigma.shape, minval=1.0, maxval=training.max_guidance_scale)
        noisy = (1.0 - level) * latents + level * noise
        both = {
            name: jnp.concatenate([jnp.broadcast_to(empty_ids[name], ids[name].shape), ids[name]])
            for name in ids
        }
        twice = (jnp.concatenate([v, v]) for v in (noisy, sigma, jnp.ones_like(sigma)))
        doubled, sigmas, ones = twice
        empty, prompted = jnp.split(velocity_fn(start, doubled, both, sigmas, ones), 2)
        target = jax.lax.stop_gradient(empty + scale.reshape(level.shape) * (prompted - empty))
        output = velocity_fn(start | {"transformer": params}, noisy, ids, sigma, scale)
        return jnp.mean(jnp.square(output - target)), {}

    params = jax.tree.map(jnp.copy, start["transformer"])
    transformer = fit_as(
        training, loss_fn, params, (start, data), seed=seed + 1, name="guidance", state_file=state_file
    )
    return start | {"transformer": transformer}


def _noise(key_noise: Key, key_sigma: Key, latents: Array, shift: float) -> tuple[Array, Array, Array]:
    """Draw noise [B, ...] and levels stratified over the batch: sigma [B], and again as [B, 1, ...]."""
    batch = latents.shape[0]
    noise = jax.random.normal(key_noise, latents.shape)
    uniform = (jnp.arange(batch) + jax.random.uniform(key_sigma)) / batch
    sigma = shifted(uniform, shift)
    return noise, sigma, sigma.reshape(-1, *(1,) * (latents.ndim - 1))
