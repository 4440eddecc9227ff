"""Train FLUX in miniature: a flow from noise to pictures, then guidance distilled into the number it is told.

The flow is trained with prompts dropped at random; the second training starts from it and fits, for a
guidance scale drawn anew for every picture, what two evaluations of the first give together, so that one
evaluation does, as in FLUX.1 [dev].

Source: Lipman et al., Flow Matching, arXiv 2210.02747; Esser et al., arXiv 2403.03206 (noise levels);
Ho and Salimans, arXiv 2207.12598 (guidance); Meng et al., arXiv 2210.03142 (its distillation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.diffusion.grid import shifted
from rats_jax.networks.clip_text import CLIPTextModel
from rats_jax.networks.flux import FluxTransformer2DModel
from rats_jax.networks.t5 import T5EncoderModel
from rats_jax.pipelines.flux import image_positions, pack
from rats_jax.pretraining.fit import fit_as
from rats_jax.types import Array, Key, Params

DrawFn = Callable[[Any, Key, int], tuple[Array, Mapping[str, Array]]]
"""(data, key, batch size B) -> latents [B, h, w, C] and token ids [B, L] of their prompts by text encoder."""

PARTS = ("transformer", "text_encoder", "text_encoder_2")


def make_networks(configs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Build transformer, CLIP and T5 from their configs, by folder."""
    return {
        "transformer": FluxTransformer2DModel.from_config(configs["transformer"]),
        "text_encoder": CLIPTextModel.from_config(configs["text_encoder"]),
        "text_encoder_2": T5EncoderModel.from_config(configs["text_encoder_2"]),
    }


def make_velocity_fn(networks: Mapping[str, Any], latent_shape: tuple[int, ...]) -> Callable[..., Array]:
    """Make (params by folder, tokens [B, L, D], ids, sigma [B], guidance [B]) -> velocity [B, L, D]."""
    image_ids = image_positions(latent_shape[0], latent_shape[1])

    def velocity_fn(
        params: Params, noisy: Array, ids: Mapping[str, Array], sigma: Array, scale: Array
    ) -> Any:
        clip: Any = networks["text_encoder"].apply({"params": params["text_encoder"]}, ids["text_encoder"])
        context: Any = networks["text_encoder_2"].apply(
            {"params": params["text_encoder_2"]}, ids["text_encoder_2"]
        )
        return networks["transformer"].apply(
            {"params": params["transformer"]},
            noisy,
            context,
            clip.pooled,
            1000.0 * sigma,
            1000.0 * scale,
            image_ids=image_ids,
            text_ids=np.zeros((context.shape[1], 3), int),
        )

    return velocity_fn


def train_flow(
    networks: Mapping[str, Any],
    data: Any,
    draw_fn: DrawFn,
    empty_ids: Mapping[str, np.ndarray],
    training: Any,
    *,
    latent_shape: tuple[int, ...],
    shift: float,
    seed: int,
    state_file: Path | None = None,
) -> Params:
    """Minimise the squared error of the velocity, noise minus latents.

    Args:
        networks: from `make_networks`.
        data: what `draw_fn` draws from, kept on the device.
        draw_fn: draws latents and their prompts.
        empty_ids: [L] int32 by text encoder, of the empty prompt.
        training: num_updates, batch_size, learning_rate, ema_decay, prompt_dropout.
        latent_shape: h, w, C.
        shift: of the noise levels, as in the schedule of sampling.
        seed: of initialisation and draws.
        state_file: see `fit`.

    Returns:
        Averaged weights by folder.
    """
    keys = jax.random.split(jax.random.key(seed), len(PARTS))
    params = {name: jax.jit(networks[name].init_params)(key) for name, key in zip(PARTS, keys, strict=True)}
    params["transformer"] = start_from_identity(params["transformer"])
    params["text_encoder_2"] = soften_attention(
        params["text_encoder_2"], networks["text_encoder_2"].config.d_kv
    )
    velocity_fn = make_velocity_fn(networks, latent_shape)

    def loss_fn(params: Params, data: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        key_data, key_noise, key_sigma, key_drop = jax.random.split(key, 4)
        latents, ids = draw_fn(data, key_data, training.batch_size)
        tokens, noise, sigma = _noise(key_noise, key_sigma, latents, shift)
        drop = jax.random.bernoulli(key_drop, training.prompt_dropout, (latents.shape[0], 1))
        ids = {name: jnp.where(drop, empty_ids[name], ids[name]) for name in ids}
        level = sigma[:, None, None]
        output = velocity_fn(params, (1.0 - level) * tokens + level * noise, ids, sigma, jnp.ones_like(sigma))
        return jnp.mean(jnp.square(output - (noise - tokens))), {}

    return fit_as(training, loss_fn, params, data, seed=seed + 1, name="flow", state_file=state_file)


def start_from_identity(transformer: Params) -> Params:
    """Zero the modulations, whose gates then let no block add anything, and the last layer.

    Source: Peebles and Xie, Scalable Diffusion Models with Transformers, arXiv 2212.09748, section 3.2
    (adaLN-Zero).
    """
    flat: Any = flatten_dict(transformer)
    return unflatten_dict(
        {
            path: jnp.zeros_like(leaf) if path[-2] == "linear" or path[0] == "proj_out" else leaf
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
    networks: Mapping[str, Any],
    flow: Params,
    data: Any,
    draw_fn: DrawFn,
    empty_ids: Mapping[str, np.ndarray],
    training: Any,
    *,
    latent_shape: tuple[int, ...],
    shift: float,
    seed: int,
    state_file: Path | None = None,
) -> Params:
    """Fit, at every guidance scale, empty + scale * (prompted - empty), in one evaluation.

    Args:
        networks, data, draw_fn, empty_ids, latent_shape, shift, seed, state_file: as of `train_flow`.
        flow: weights by folder, of `train_flow`; those of the text encoders stay as they are.
        training: num_updates, batch_size, learning_rate, ema_decay, max_guidance_scale.

    Returns:
        Averaged weights by folder.
    """
    velocity_fn = make_velocity_fn(networks, latent_shape)

    def loss_fn(params: Params, data: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        key_data, key_noise, key_sigma, key_scale = jax.random.split(key, 4)
        flow, data = data
        latents, ids = draw_fn(data, key_data, training.batch_size)
        tokens, noise, sigma = _noise(key_noise, key_sigma, latents, shift)
        scale = jax.random.uniform(key_scale, sigma.shape, minval=1.0, maxval=training.max_guidance_scale)
        level = sigma[:, None, None]
        noisy = (1.0 - level) * tokens + level * noise
        both = {
            name: jnp.concatenate([jnp.broadcast_to(empty_ids[name], ids[name].shape), ids[name]])
            for name in ids
        }
        twice = (jnp.concatenate([v, v]) for v in (noisy, sigma, jnp.ones_like(sigma)))
        doubled, sigmas, ones = twice
        empty, prompted = jnp.split(velocity_fn(flow, doubled, both, sigmas, ones), 2)
        target = jax.lax.stop_gradient(empty + scale[:, None, None] * (prompted - empty))
        output = velocity_fn(flow | {"transformer": params}, noisy, ids, sigma, scale)
        return jnp.mean(jnp.square(output - target)), {}

    start = jax.tree.map(jnp.copy, flow["transformer"])
    transformer = fit_as(
        training, loss_fn, start, (flow, data), seed=seed + 1, name="guidance", state_file=state_file
    )
    return flow | {"transformer": transformer}


def _noise(key_noise: Key, key_sigma: Key, latents: Array, shift: float) -> tuple[Array, Array, Array]:
    """Draw noise and levels stratified over the batch: tokens and noise [B, L, D], sigma [B]."""
    tokens = pack(latents)
    batch = tokens.shape[0]
    noise = jax.random.normal(key_noise, tokens.shape)
    uniform = (jnp.arange(batch) + jax.random.uniform(key_sigma)) / batch
    return tokens, noise, shifted(uniform, shift)
