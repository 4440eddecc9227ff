"""Blocks of a UNet: residual blocks, each with a transformer or without, on one level of its resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from rats_jax.networks.layers import match_batch
from rats_jax.networks.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from rats_jax.networks.transformer_2d import Transformer2DModel
from rats_jax.types import Array

MakeResnet = Callable[..., ResnetBlock2D]
"""(name=...) -> a residual block."""
MakeTransformer = Callable[..., Transformer2DModel]
"""(depth=..., name=...) -> a transformer."""


class DownBlock2D(nn.Module):
    """A level on the way down; CrossAttnDownBlock2D where it has transformers.

    Attributes:
        resnet: makes a residual block.
        num_layers: how many there are.
        transformer: makes a transformer, or None.
        depths: [num_layers] blocks of the transformer behind each residual block.
        downsampler: makes the last layer, which halves the resolution, or None.

    Source: diffusers/models/unets/unet_2d_blocks.py.
    """

    resnet: MakeResnet
    num_layers: int
    transformer: MakeTransformer | None
    depths: tuple[int, ...]
    downsampler: Callable[..., Downsample2D] | None

    @nn.compact
    def __call__(self, hidden: Array, time: Array, tokens: Array) -> tuple[Array, list[Array]]:
        """Compute a level.

        Args:
            hidden: [B, H, W, I].
            time: [B, D].
            tokens: [B, L, D'].

        Returns:
            [B, H', W', O] and what every layer gave, for the way up.
        """
        skips = []
        for i in range(self.num_layers):
            hidden = self.resnet(name=f"resnets_{i}")(hidden, time)
            if self.transformer is not None:
                hidden = self.transformer(depth=self.depths[i], name=f"attentions_{i}")(hidden, tokens)
            skips.append(hidden)
        if self.downsampler is not None:
            hidden = self.downsampler(name="downsamplers_0")(hidden)
            skips.append(hidden)
        return hidden, skips


class MidBlock2D(nn.Module):
    """The lowest level; UNetMidBlock2DCrossAttn where it has a transformer.

    Attributes:
        resnet: makes a residual block.
        transformer: makes a transformer, behind which a second residual block comes, or None.
        depth: blocks of the transformer.

    Source: diffusers/models/unets/unet_2d_blocks.py.
    """

    resnet: MakeResnet
    transformer: MakeTransformer | None
    depth: int

    @nn.compact
    def __call__(self, hidden: Array, time: Array, tokens: Array) -> Array:
        """Compute a level: [B, H, W, C], [B, D], [B, L, D'] -> [B, H, W, C]."""
        hidden = self.resnet(name="resnets_0")(hidden, time)
        if self.transformer is None:
            return hidden
        hidden = self.transformer(depth=self.depth, name="attentions_0")(hidden, tokens)
        return self.resnet(name="resnets_1")(hidden, time)


class UpBlock2D(nn.Module):
    """A level on the way up; CrossAttnUpBlock2D where it has transformers.

    Attributes:
        resnet: makes a residual block.
        num_layers: how many there are.
        transformer: makes a transformer, or None.
        depths: [num_layers] blocks of the transformer behind each residual block.
        upsampler: makes the last layer, which enlarges, or None.

    Source: diffusers/models/unets/unet_2d_blocks.py.
    """

    resnet: MakeResnet
    num_layers: int
    transformer: MakeTransformer | None
    depths: tuple[int, ...]
    upsampler: Callable[..., Upsample2D] | None

    @nn.compact
    def __call__(
        self,
        hidden: Array,
        time: Array,
        tokens: Array,
        skips: Sequence[Array],
        size: tuple[int, int] | None,
    ) -> Array:
        """Compute a level.

        Args:
            hidden: [B, H, W, I].
            time: [B, D].
            tokens: [B, L, D'].
            skips: num_layers results of the way down, [B, H, W, ?], the last one first to be read.
            size: height and width of the result, where this level enlarges.

        Returns:
            [B, H', W', O].
        """
        for i, skip in zip(range(self.num_layers), reversed(skips), strict=True):
            hidden = jnp.concatenate(match_batch(hidden, skip), axis=-1)
            hidden = self.resnet(name=f"resnets_{i}")(hidden, time)
            if self.transformer is not None:
                hidden = self.transformer(depth=self.depths[i], name=f"attentions_{i}")(hidden, tokens)
        return hidden if self.upsampler is None else self.upsampler(name="upsamplers_0")(hidden, size)
