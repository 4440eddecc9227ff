"""Wan in miniature: its networks and its velocity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from rats_jax.networks.t5 import UMT5EncoderModel
from rats_jax.networks.wan import WanTransformer3DModel
from rats_jax.pipelines.wan import is_prompt
from rats_jax.pretraining.flow import Flow, init_networks, soften_attention, start_from_identity
from rats_jax.types import Array, Key, Params

PARTS = ("transformer", "text_encoder")
_FILLING = 0  # the token that fills prompts up, see write_t5_tokenizer


def make_networks(configs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Build transformer and UMT5 from their configs, by folder."""
    return {
        "transformer": WanTransformer3DModel.from_config(configs["transformer"]),
        "text_encoder": UMT5EncoderModel.from_config(configs["text_encoder"]),
    }


def make_flow(networks: Mapping[str, Any]) -> Flow:
    """Compose the flow of networks, by folder, for latents [B, t, h, w, C]; it is told no guidance."""

    def init(key: Key) -> Params:
        params = init_networks(networks, key)
        zeroed = ("time_proj", "scale_shift_table")
        umt5 = networks["text_encoder"].config
        return {
            "transformer": start_from_identity(params["transformer"], zeroed),
            "text_encoder": soften_attention(params["text_encoder"], umt5.d_kv),
        }

    def velocity_fn(
        params: Params, noisy: Array, ids: Mapping[str, Array], sigma: Array, scale: Array
    ) -> Any:
        del scale
        tokens = ids["text_encoder"]
        shown = is_prompt(tokens, _FILLING)
        context: Any = networks["text_encoder"].apply({"params": params["text_encoder"]}, tokens, shown)
        context = jnp.where(shown[..., None], context, 0.0)
        return networks["transformer"].apply(
            {"params": params["transformer"]}, noisy, context, 1000.0 * sigma
        )

    return Flow(init, velocity_fn)
