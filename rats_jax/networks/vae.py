"""Encoder and decoder of an autoencoder of pictures: residual blocks on several levels of resolution."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from rats_jax.networks.attention import join_heads, split_heads
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import Conv, GroupNorm, silu
from rats_jax.networks.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from rats_jax.types import Array

_EPSILON = 1e-6


class PositionAttention(nn.Module):
    """Attention of one head among the positions of a picture, added to it.

    Attributes:
        num_groups: of the norm.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: Attention in diffusers/models/attention_processor.py, as UNetMidBlock2D makes it.
    """

    num_groups: int
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Attend: [B, H, W, C] -> [B, H, W, C]."""
        chex.assert_rank(inputs, 4)
        batch, height, width, channels = inputs.shape
        hidden = GroupNorm(self.num_groups, _EPSILON, self.dtype, self.kernels, name="group_norm")(inputs)
        hidden = hidden.reshape(batch, height * width, channels)

        def project(name: str) -> Array:
            return split_heads(nn.Dense(channels, dtype=self.dtype, name=name)(hidden), 1)

        attended = join_heads(self.kernels.attend(project("query"), project("key"), project("value")))
        outputs = nn.Dense(channels, dtype=self.dtype, name="proj_attn")(attended)
        return outputs.reshape(inputs.shape) + inputs


class _Level(nn.Module):
    """Residual blocks, and a layer that changes the resolution: DownEncoderBlock2D and UpDecoderBlock2D."""

    resnet: Callable[..., ResnetBlock2D]
    num_layers: int
    resample: Callable[..., nn.Module] | None

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        for i in range(self.num_layers):
            hidden = self.resnet(name=f"resnets_{i}")(hidden)
        return hidden if self.resample is None else self.resample()(hidden)


class _Middle(nn.Module):
    """Two residual blocks, between which positions may attend to each other: UNetMidBlock2D."""

    resnet: Callable[..., ResnetBlock2D]
    attention: Callable[..., PositionAttention] | None

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        hidden = self.resnet(name="resnets_0")(hidden)
        if self.attention is not None:
            hidden = self.attention(name="attentions_0")(hidden)
        return self.resnet(name="resnets_1")(hidden)


class _Coder(nn.Module):
    """What the encoder and the decoder have in common.

    Attributes:
        config: of the autoencoder, a value for each of its fields.
        dtype: of the computation and the result.
        kernels: of the device.
    """

    config: Mapping[str, Any]
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @property
    def _on_device(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "kernels": self.kernels}

    def _resnet(self, features: int) -> Callable[..., ResnetBlock2D]:
        groups, act_fn = self.config["norm_num_groups"], self.config["act_fn"]
        return functools.partial(ResnetBlock2D, features, groups, _EPSILON, act_fn, **self._on_device)

    def _enter(self, inputs: Array, features: int) -> Array:
        chex.assert_rank(inputs, 4)
        return Conv(features, **self._on_device, name="conv_in")(inputs)

    def _go_through_the_middle(self, hidden: Array) -> Array:
        attention = None
        if self.config["mid_block_add_attention"]:
            attention = functools.partial(
                PositionAttention, self.config["norm_num_groups"], **self._on_device
            )
        return _Middle(self._resnet(hidden.shape[-1]), attention, name="mid_block")(hidden)

    def _leave(self, hidden: Array, features: int) -> Array:
        """End with SiLU, whatever the activation of the blocks is, and a convolution."""
        groups = self.config["norm_num_groups"]
        hidden = silu(GroupNorm(groups, _EPSILON, **self._on_device, name="conv_norm_out")(hidden))
        return Conv(features, **self._on_device, name="conv_out")(hidden)


class Encoder(_Coder):
    """From a picture to means and logarithms of variances.

    Source: Encoder in diffusers/models/autoencoders/vae.py.
    """

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Encode: [B, H, W, 3] -> [B, h, w, 2 C], one level after the other at half the resolution."""
        widths, num_layers = self.config["block_out_channels"], self.config["layers_per_block"]
        halve = functools.partial(Downsample2D, padding=0, **self._on_device, name="downsamplers_0")
        hidden = self._enter(images, widths[0])
        for i, features in enumerate(widths):
            resample = halve if i < len(widths) - 1 else None
            hidden = _Level(self._resnet(features), num_layers, resample, name=f"down_blocks_{i}")(hidden)
        return self._leave(self._go_through_the_middle(hidden), 2 * self.config["latent_channels"])


class Decoder(_Coder):
    """From latents to a picture.

    Source: Decoder in diffusers/models/autoencoders/vae.py.
    """

    @nn.compact
    def __call__(self, latents: Array) -> Array:
        """Decode: [B, h, w, C] -> [B, H, W, 3], one level after the other at twice the resolution."""
        widths, num_layers = self.config["block_out_channels"][::-1], self.config["layers_per_block"] + 1
        double = functools.partial(Upsample2D, **self._on_device, name="upsamplers_0")
        hidden = self._go_through_the_middle(self._enter(latents, widths[0]))
        for i, features in enumerate(widths):
            resample = double if i < len(widths) - 1 else None
            hidden = _Level(self._resnet(features), num_layers, resample, name=f"up_blocks_{i}")(hidden)
        return self._leave(hidden, self.config["out_channels"])
