"""FLUX in miniature: its networks and its velocity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rats_jax.networks.clip_text import CLIPTextModel
from rats_jax.networks.flux import FluxTransformer2DModel
from rats_jax.networks.t5 import T5EncoderModel
from rats_jax.pipelines.flux import image_positions
from rats_jax.pretraining.flow import Flow, init_networks, soften_attention, start_from_identity
from rats_jax.types import Array, Key, Params

PARTS = ("transformer", "text_encoder", "text_encoder_2")


def make_flow(networks: Mapping[str, Any], size: tuple[int, int]) -> Flow:
    """Compose the flow of networks, by folder, for packed latents of height and width `size`."""

    def init(key: Key) -> Params:
        params = init_networks(networks, key)
        params["transformer"] = start_from_identity(params["transformer"], ("linear",))
        t5 = networks["text_encoder_2"].config
        params["text_encoder_2"] = soften_attention(params["text_encoder_2"], t5.d_kv)
        return params

    return Flow(init, make_velocity_fn(networks, size))


def make_networks(configs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Build transformer, CLIP and T5 from their configs, by folder."""
    return {
        "transformer": FluxTransformer2DModel.from_config(configs["transformer"]),
        "text_encoder": CLIPTextModel.from_config(configs["text_encoder"]),
        "text_encoder_2": T5EncoderModel.from_config(configs["text_encoder_2"]),
    }


def make_velocity_fn(networks: Mapping[str, Any], size: tuple[int, int]) -> Callable[..., Array]:
    """Make (params by folder, tokens [B, L, D], ids, sigma [B], guidance [B]) -> velocity [B, L, D]."""
    image_ids = image_positions(*size)

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
