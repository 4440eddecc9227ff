"""Encoder and decoder of Wan's autoencoder of videos: residual blocks whose frames read earlier frames alone.

Layers that look back keep the last frames that they have seen in the collection HISTORY, if it is mutable:
a clip can then go through chunk by chunk. Otherwise a chunk is a whole clip, before which all is zero.

Source: Wan Team, Wan, arXiv 2503.20314, section 4.1; diffusers, models/autoencoders/autoencoder_kl_wan.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from rats_jax.networks.attention import join_heads, split_heads
from rats_jax.networks.convolution import convolve_frames
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import Conv, silu
from rats_jax.types import Array

HISTORY = "history"
"""The collection of the last frames that each layer has seen."""
_LEAST_NORM = 1e-12


class CausalConv(nn.Module):
    """A convolution of [B, T, H, W, I] in which a frame reads itself and those before it.

    Attributes:
        features: O.
        kernel_size: of time, height and width.
        before: frames ahead of the first that are read: zero ones, or those of HISTORY.
        stride: in time.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: WanCausalConv3d.
    """

    features: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    before: int = 2
    stride: int = 1
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, frames: Array) -> Array:
        """Convolve: [B, T, H, W, I] -> [B, T', H, W, O]."""
        shape = (*self.kernel_size, frames.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        frames, before = frames.astype(self.dtype), self.before
        if before and self.is_mutable_collection(HISTORY):
            past = (frames.shape[0], before, *frames.shape[2:])
            seen = self.variable(HISTORY, "frames", jnp.zeros, past, self.dtype)
            frames = jnp.concatenate([seen.value, frames], axis=1)
            seen.value, before = frames[:, -before:], 0
        padding = tuple((size // 2, size // 2) for size in self.kernel_size[1:])
        how = {"before": before, "stride": self.stride, "convolve": self.kernels.convolve}
        return convolve_frames(frames, kernel, padding, **how) + bias


class ChannelNorm(nn.Module):
    """Norm by the root mean square of the channels at each position, with a scale; sums are float32.

    Attributes:
        axes: ones behind the channels in the shape of the scale, as files have it.

    Source: WanRMS_norm.
    """

    axes: int = 3

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Normalise the last axis; keeps the dtype."""
        channels = inputs.shape[-1]
        gamma = self.param("gamma", nn.initializers.ones, (channels, *(1,) * self.axes)).reshape(channels)
        wide = inputs.astype(jnp.float32)
        square = jnp.sum(wide**2, axis=-1, keepdims=True)
        normed = wide * lax.rsqrt(jnp.maximum(square, _LEAST_NORM**2)) * channels**0.5
        return (normed * gamma.astype(jnp.float32)).astype(inputs.dtype)


class WanResidualBlock(nn.Module):
    """A residual block: norm, SiLU, convolution, twice.

    Attributes:
        features: O, channels of the result.
        dtype: of the computation and the result.
        kernels: of the device.
    """

    features: int
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """[B, T, H, W, I] -> [B, T, H, W, O]."""
        on_device = {"dtype": self.dtype, "kernels": self.kernels}
        hidden = inputs
        for i in (1, 2):
            hidden = silu(ChannelNorm(name=f"norm{i}")(hidden))
            hidden = CausalConv(self.features, **on_device, name=f"conv{i}")(hidden)
        if inputs.shape[-1] != self.features:
            inputs = CausalConv(self.features, (1, 1, 1), 0, **on_device, name="conv_shortcut")(inputs)
        return hidden + inputs


# The gradient keeps what enters a block and computes the rest again.
_Block = nn.remat(WanResidualBlock)


class WanAttentionBlock(nn.Module):
    """Attention of one head among the positions of each frame, added to it.

    Attributes:
        dtype: of the computation and the result.
        kernels: of the device.
    """

    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """[B, T, H, W, C] -> [B, T, H, W, C]."""
        channels = inputs.shape[-1]

        def project(features: int, name: str, x: Array) -> Array:
            one = {"kernel_size": (1, 1), "padding": ((0, 0), (0, 0))}
            return Conv(features, **one, dtype=self.dtype, kernels=self.kernels, name=name)(x)

        frames = ChannelNorm(axes=2, name="norm")(inputs.reshape(-1, *inputs.shape[2:]))
        joint = project(3 * channels, "to_qkv", frames).reshape(frames.shape[0], -1, 3 * channels)
        query, key, value = (split_heads(part, 1) for part in jnp.split(joint, 3, axis=-1))
        attended = join_heads(self.kernels.attend(query, key, value)).reshape(frames.shape)
        return inputs + project(channels, "proj", attended).reshape(inputs.shape)


class WanMidBlock(nn.Module):
    """Two residual blocks, between which the positions of a frame attend to each other.

    Attributes:
        dtype: of the computation and the result.
        kernels: of the device.
    """

    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """[B, T, H, W, C] -> [B, T, H, W, C]."""
        on_device = {"dtype": self.dtype, "kernels": self.kernels}
        hidden = _Block(hidden.shape[-1], **on_device, name="resnets_0")(hidden)
        hidden = WanAttentionBlock(**on_device, name="attentions_0")(hidden)
        return _Block(hidden.shape[-1], **on_device, name="resnets_1")(hidden)


class Downsample(nn.Module):
    """Halves height and width; in time each frame but the first becomes one with its two neighbours before.

    Attributes:
        in_time: whether it halves the number of frames after the first, too.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: WanResample.
    """

    in_time: bool
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, frames: Array) -> Array:
        """[B, T, H, W, C] -> [B, T', H / 2, W / 2, C], T' = T or 1 + (T - 1) / 2."""
        channels, on_device = frames.shape[-1], {"dtype": self.dtype, "kernels": self.kernels}
        halve = Conv(channels, strides=(2, 2), padding=((0, 1), (0, 1)), **on_device, name="resample_1")
        halved = halve(frames.reshape(-1, *frames.shape[2:]))
        halved = halved.reshape(*frames.shape[:2], *halved.shape[1:])
        if not self.in_time:
            return halved
        in_time = CausalConv(channels, (3, 1, 1), before=0, stride=2, **on_device, name="time_conv")
        return jnp.concatenate([halved[:, :1], in_time(halved)], axis=1)


class Upsample(nn.Module):
    """Doubles height and width and halves the channels; in time each frame but a clip's first becomes two.

    Attributes:
        in_time: whether it doubles the frames after the first, too.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: WanResample.
    """

    in_time: bool
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, frames: Array, first: bool) -> Array:
        """[B, T, H, W, C] -> [B, T', 2 H, 2 W, C / 2]; `first` says whether frame 0 is the clip's first."""
        channels, on_device = frames.shape[-1], {"dtype": self.dtype, "kernels": self.kernels}
        if self.in_time:
            alone, later = (frames[:, :1], frames[:, 1:]) if first else (frames[:, :0], frames)
            pairs = CausalConv(2 * channels, (3, 1, 1), **on_device, name="time_conv")(later)
            batch, count, height, width, _ = pairs.shape
            pairs = jnp.moveaxis(pairs.reshape(batch, count, height, width, 2, channels), 4, 2)
            pairs = pairs.reshape(batch, 2 * count, height, width, channels)
            frames = jnp.concatenate([alone.astype(pairs.dtype), pairs], axis=1)
        pictures = frames.reshape(-1, *frames.shape[2:])
        pictures = jnp.repeat(jnp.repeat(pictures, 2, axis=1), 2, axis=2)
        doubled = Conv(channels // 2, **on_device, name="resample_1")(pictures)
        return doubled.reshape(*frames.shape[:2], *doubled.shape[1:])


class WanUpBlock(nn.Module):
    """Residual blocks and what doubles the resolution behind them.

    Attributes:
        features: channels of the residual blocks.
        num_layers: residual blocks.
        doubles: whether height and width are doubled.
        in_time: whether frames are, too.
        dtype: of the computation and the result.
        kernels: of the device.
    """

    features: int
    num_layers: int
    doubles: bool
    in_time: bool
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, hidden: Array, first: bool) -> Array:
        """[B, T, H, W, C] -> [B, T', H', W', C']; `first` as of `Upsample`."""
        on_device = {"dtype": self.dtype, "kernels": self.kernels}
        for i in range(self.num_layers):
            hidden = _Block(self.features, **on_device, name=f"resnets_{i}")(hidden)
        if not self.doubles:
            return hidden
        return Upsample(self.in_time, **on_device, name="upsamplers_0")(hidden, first)


class WanEncoder3d(nn.Module):
    """From a video to means and logarithms of variances.

    Attributes:
        config: of the autoencoder, a value for each of its fields.
        dtype: of the computation and the result.
        kernels: of the device.
    """

    config: Mapping[str, Any]
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, videos: Array) -> Array:
        """Encode: [B, T, H, W, 3] -> [B, t, h, w, 2 C], level by level at half the resolution."""
        chex.assert_rank(videos, 5)
        config, on_device = self.config, {"dtype": self.dtype, "kernels": self.kernels}
        hidden = CausalConv(config["base_dim"], **on_device, name="conv_in")(videos)
        names = (f"down_blocks_{i}" for i in itertools.count())
        for level, factor in enumerate(config["dim_mult"]):
            for _ in range(config["num_res_blocks"]):
                hidden = _Block(config["base_dim"] * factor, **on_device, name=next(names))(hidden)
            if level < len(config["dim_mult"]) - 1:
                in_time = config["temperal_downsample"][level]
                hidden = Downsample(in_time, **on_device, name=next(names))(hidden)
        hidden = WanMidBlock(**on_device, name="mid_block")(hidden)
        hidden = silu(ChannelNorm(name="norm_out")(hidden))
        return CausalConv(2 * config["z_dim"], **on_device, name="conv_out")(hidden)


class WanDecoder3d(nn.Module):
    """From latents to a video.

    Attributes:
        config: of the autoencoder, a value for each of its fields.
        dtype: of the computation and the result.
        kernels: of the device.
    """

    config: Mapping[str, Any]
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, latents: Array, first: bool) -> Array:
        """Decode: [B, t, h, w, C] -> [B, T, H, W, 3]; `first` as of `Upsample`."""
        config, on_device = self.config, {"dtype": self.dtype, "kernels": self.kernels}
        base = config["decoder_base_dim"] or config["base_dim"]
        widths = [base * factor for factor in config["dim_mult"][::-1]]
        in_time = config["temperal_downsample"]
        hidden = CausalConv(widths[0], **on_device, name="conv_in")(latents)
        hidden = WanMidBlock(**on_device, name="mid_block")(hidden)
        for i, features in enumerate(widths):
            doubles = i < len(widths) - 1
            block = WanUpBlock(
                features,
                config["num_res_blocks"] + 1,
                doubles,
                doubles and in_time[-1 - i],
                **on_device,
                name=f"up_blocks_{i}",
            )
            hidden = block(hidden, first)
        hidden = silu(ChannelNorm(name="norm_out")(hidden))
        return CausalConv(config["out_channels"], **on_device, name="conv_out")(hidden)
