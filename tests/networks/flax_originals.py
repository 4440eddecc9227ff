"""Flax classes of diffusers, whose trees of weights are those of the networks here."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import pytest


def make_flax(name, config):
    """Build a Flax class of diffusers, 'unet' or 'vae', from those fields of a config that it knows."""
    module, network = {
        "unet": ("unets.unet_2d_condition_flax", "FlaxUNet2DConditionModel"),
        "vae": ("vae_flax", "FlaxAutoencoderKL"),
    }[name]
    found = pytest.importorskip(f"diffusers.models.{module}", reason="diffusers has no Flax classes")
    network = getattr(found, network)
    known = inspect.signature(network).parameters
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in known}
    return network(**{k: v for k, v in fields.items() if v is not None})


def init_flax(network: Any, key: Any) -> Any:
    """Draw the weights of such a network."""
    channels, size = network.in_channels, network.sample_size
    sample = jnp.zeros((1, channels, size, size))
    if not hasattr(network, "cross_attention_dim"):
        return network.init(key, sample)["params"]
    added = None
    if network.addition_embed_type == "text_time":
        pooled = network.projection_class_embeddings_input_dim - 6 * network.addition_time_embed_dim
        added = {"text_embeds": jnp.zeros((1, pooled)), "time_ids": jnp.zeros((1, 6))}
    embeds = jnp.zeros((1, 1, network.cross_attention_dim))
    return network.init(key, sample, jnp.zeros((1,), jnp.int32), embeds, added)["params"]


def describe_flax(network: Any) -> Any:
    """Give the tree of its weights as shapes."""
    return jax.eval_shape(lambda: init_flax(network, jax.random.key(0)))
