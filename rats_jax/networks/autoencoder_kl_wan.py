"""Autoencoder of videos (VAE) of Wan2.1: videos to latents and back."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax import lax

from rats_jax.fields import (
    Field,
    anything,
    expect,
    integer,
    listed,
    number,
    one_of,
    only,
    optional,
    read_fields,
)
from rats_jax.networks.abstract import Network
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.vae_wan import HISTORY, CausalConv, WanDecoder3d, WanEncoder3d
from rats_jax.types import Array, Key, Params

_LOG_VARIANCE = -30.0, 20.0
# Of the published model.
_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)

FIELDS: Mapping[str, Field] = {
    "base_dim": integer(96),
    "decoder_base_dim": optional(integer(96)),
    "z_dim": integer(16),
    "dim_mult": listed((1, 2, 4, 4), integer(1)),
    "num_res_blocks": integer(2, most=100),
    "attn_scales": only(()),  # with others the original cannot encode
    "temperal_downsample": listed((False, True, True), one_of(False, True), least=0),
    "dropout": anything(0.0),  # of training
    "latents_mean": listed(_MEAN, number(0.0, positive=False)),
    "latents_std": listed(_STD, number(1.0)),
    "is_residual": only(False),
    "in_channels": integer(3),
    "out_channels": integer(3),
    "patch_size": optional(integer(1, most=1000)),
    "scale_factor_temporal": integer(4),
    "scale_factor_spatial": integer(8),
}
"""By name: all arguments of the PyTorch class; is_residual is of Wan2.2."""


class AutoencoderKLWan(Network):
    """An autoencoder whose latents are normal variables; make one with `from_config`.

    A clip of 1 + k F frames has 1 + k latents, F = `frames_per_latent`: the first stands for one frame, each
    other for F. No frame depends on a later latent, so the first latents of a clip give its first frames.

    Attributes:
        config: of the PyTorch class, a value for each of FIELDS.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: AutoencoderKLWan in diffusers/models/autoencoders/autoencoder_kl_wan.py.
    """

    config: Mapping[str, Any]
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, dtype: Any = jnp.float32, kernels: Kernels = PLAIN
    ) -> AutoencoderKLWan:
        """Make the network that a `vae/config.json` of diffusers describes.

        Args:
            config: content of the file.
            dtype: of the computation and the result; weights are float32 unless the caller casts them.
            kernels: of the device.

        Raises:
            ValueError: a field with a value that is not computed here, or fields that do not fit together:
                'field=value: expected ...'.
        """
        values = read_fields(config, FIELDS)
        levels, in_time = len(values["dim_mult"]), values["temperal_downsample"]
        expected = f"{levels - 1} values, one less than in dim_mult={values['dim_mult']!r}"
        expect(len(in_time) == levels - 1, "temperal_downsample", in_time, expected)
        for name in ("latents_mean", "latents_std"):
            expected = f"z_dim={values['z_dim']} numbers"
            expect(len(values[name]) == values["z_dim"], name, values[name], expected)
        patch = values["patch_size"] or 1
        for name in ("in_channels", "out_channels"):
            expected = f"a multiple of {patch**2}, the pixels of patch_size={patch}"
            expect(values[name] % patch**2 == 0, name, values[name], expected)
        factors = {"temporal": 2 ** sum(in_time), "spatial": patch * 2 ** (levels - 1)}
        for axis, factor in factors.items():
            name = f"scale_factor_{axis}"
            expect(values[name] == factor, name, values[name], f"{factor} of levels and patches")
        return cls(FrozenDict(values), dtype=dtype, kernels=kernels)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.config["z_dim"]

    @property
    def downscale(self) -> int:
        """Pixels of a frame per position of its latents, on either axis."""
        return self.config["scale_factor_spatial"]

    @property
    def frames_per_latent(self) -> int:
        """Frames that each latent but the first stands for."""
        return self.config["scale_factor_temporal"]

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights."""
        side = self.downscale  # no weight depends on it
        channels = self.config["in_channels"] // self._patch**2
        return self.init(key, jnp.zeros((1, 1, side, side, channels)))["params"]

    @property
    def _patch(self) -> int:
        """Pixels on a side of what the networks take for one pixel of more channels."""
        return self.config["patch_size"] or 1

    def setup(self) -> None:
        """Name the parts."""
        on_device = {"dtype": self.dtype, "kernels": self.kernels}
        channels = self.config["z_dim"]
        self.encoder = WanEncoder3d(self.config, **on_device)
        self.decoder = WanDecoder3d(self.config, **on_device)
        self.quant_conv = CausalConv(2 * channels, (1, 1, 1), 0, **on_device)
        self.post_quant_conv = CausalConv(channels, (1, 1, 1), 0, **on_device)

    def encode(self, videos: Array) -> tuple[Array, Array]:
        """Encode videos, all frames at once.

        Args:
            videos: [B, T, H, W, 3] in [-1, 1], T = 1 + k `frames_per_latent`, H and W multiples of
                `downscale`.

        Returns:
            Mean and logarithm of the variance of the latents, [B, t, h, w, C] in `dtype` each, not scaled;
            the logarithm is clipped to [-30, 20], where its gradient stops.

        Raises:
            ValueError: another number of frames.
        """
        chex.assert_rank(videos, 5)
        if (videos.shape[1] - 1) % self.frames_per_latent:
            raise ValueError(
                f"{videos.shape[1]} frames: expected 1 more than a multiple of {self.frames_per_latent}"
            )
        moments = self.quant_conv(self.encoder(_patchify(videos, self._patch)))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, *_LOG_VARIANCE)

    def decode(self, latents: Array, first: bool = True) -> Array:
        """Decode latents, all at once; the gradient keeps little more than what enters each block.

        Args:
            latents: [B, t, h, w, C] of any size, not scaled any more.
            first: whether they begin with the first ones of a clip. Others need the collection HISTORY of
                those before them, see `decode_in_turn`.

        Returns:
            [B, T, H, W, 3] in `dtype` about [-1, 1], not clipped; T = 1 + (t - 1) `frames_per_latent`, or
            t `frames_per_latent` where they are not the first.
        """
        chex.assert_rank(latents, 5)
        return _unpatchify(self.decoder(self.post_quant_conv(latents), first), self._patch)

    def __call__(self, videos: Array) -> Array:
        """Encode videos and decode the means: [B, T, H, W, 3] -> [B, T, H, W, 3]."""
        return self.decode(self.encode(videos)[0])


def _patchify(videos: Array, patch: int) -> Array:
    """Make each patch of pixels one of more channels: [B, T, H, W, C] -> [B, T, H / p, W / p, C p p].

    Channels are ordered by channel, column and row of the patch, as `patchify` of the original has them.
    """
    batch, count, height, width, channels = videos.shape
    pixels = videos.reshape(batch, count, height // patch, patch, width // patch, patch, channels)
    return pixels.transpose(0, 1, 2, 4, 6, 5, 3).reshape(*pixels.shape[:3], pixels.shape[4], -1)


def _unpatchify(pixels: Array, patch: int) -> Array:
    """Undo `_patchify`."""
    batch, count, height, width, channels = pixels.shape
    videos = pixels.reshape(batch, count, height, width, channels // patch**2, patch, patch)
    return videos.transpose(0, 1, 2, 6, 3, 5, 4).reshape(batch, count, height * patch, width * patch, -1)


def decode_in_turn(vae: AutoencoderKLWan, params: Params, latents: Array) -> Array:
    """Decode one latent after another, as the original does: of the memory of `decode`, that of one of them.

    A loop carries the last frames that each layer has seen.

    Args:
        vae: the network.
        params: its weights, or those of its decoder alone.
        latents: [B, t, h, w, C], not scaled any more.

    Returns:
        [B, T, H, W, 3], what `decode` gives but for rounding.
    """

    def decode(past: Mapping[str, Any], latent: Array, first: bool) -> tuple[Array, Mapping[str, Any]]:
        variables = {"params": params, **past}
        frames, past = vae.apply(variables, latent, first, method=vae.decode, mutable=[HISTORY])
        return frames, past

    def step(past: Mapping[str, Any], latent: Array) -> tuple[Mapping[str, Any], Array]:
        frames, past = decode(past, latent[:, None], False)
        return past, frames

    if latents.shape[1] == 1:  # all taps but the last would read zeros
        frame: Any = vae.apply({"params": params}, latents, method=vae.decode)
        return frame
    frame, past = decode({}, latents[:, :1], True)
    _, frames = lax.scan(step, past, jnp.moveaxis(latents[:, 1:], 1, 0))
    frames = jnp.moveaxis(frames, 0, 1).reshape(frame.shape[0], -1, *frame.shape[2:])
    return jnp.concatenate([frame, frames], axis=1)


def decode_clip(vae: AutoencoderKLWan, params: Params, latents: Array) -> Array:
    """Decode one latent after another, or all at once where a gradient is wanted; reverse mode only.

    Args: as of `decode_in_turn`.

    Returns:
        [B, T, H, W, 3], differentiable in weights and latents.
    """

    def at_once(params: Params, latents: Array) -> Any:
        return vae.apply({"params": params}, latents, method=vae.decode)

    decode = jax.custom_vjp(functools.partial(decode_in_turn, vae))
    decode.defvjp(functools.partial(jax.vjp, at_once), lambda pull_back, cotangent: pull_back(cotangent))
    frames: Any = decode(params, latents)
    return frames
