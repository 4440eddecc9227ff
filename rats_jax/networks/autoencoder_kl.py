"""Autoencoder of pictures (VAE) of Stable Diffusion 1.x to 3 and FLUX: pictures to latents and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax.core import FrozenDict

from rats_jax.fields import (
    MOST_PIXELS,
    Field,
    anything,
    expect,
    flag,
    integer,
    listed,
    number,
    one_of,
    only,
    optional,
    per_block,
    read_fields,
)
from rats_jax.networks.abstract import Network
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import Conv
from rats_jax.networks.vae import Decoder, Encoder
from rats_jax.types import Array, Key, Params

_LOG_VARIANCE = -30.0, 20.0
_ONE_BY_ONE = {"kernel_size": (1, 1), "padding": ((0, 0), (0, 0))}

FIELDS: Mapping[str, Field] = {
    "in_channels": integer(3),
    "out_channels": integer(3),
    "down_block_types": listed(("DownEncoderBlock2D",), only("DownEncoderBlock2D")),
    "up_block_types": listed(("UpDecoderBlock2D",), only("UpDecoderBlock2D")),
    "block_out_channels": listed((64,), integer(1)),
    "layers_per_block": integer(1, most=100),
    "act_fn": one_of("silu", "swish", "mish", "gelu", "relu"),
    "latent_channels": integer(4),
    "norm_num_groups": integer(32),
    "sample_size": per_block(integer(32, most=MOST_PIXELS)),
    "scaling_factor": number(0.18215),
    "shift_factor": optional(number(0.0, positive=False)),
    "latents_mean": only(None),
    "latents_std": only(None),
    "force_upcast": anything(True),  # about half precision on GPUs
    "use_quant_conv": flag(True),
    "use_post_quant_conv": flag(True),
    "mid_block_add_attention": flag(True),
}
"""By name: all arguments of the PyTorch class."""

IGNORED = ("dtype",)
"""What the Flax class adds: how to compute, not what."""


class AutoencoderKL(Network):
    """An autoencoder whose latents are normal variables; make one with `from_config`.

    Attributes:
        config: of the PyTorch class, a value for each of FIELDS.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: AutoencoderKL in diffusers/models/autoencoders/autoencoder_kl.py.
    """

    config: Mapping[str, Any]
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, dtype: Any = jnp.float32, kernels: Kernels = PLAIN
    ) -> AutoencoderKL:
        """Make the network that a `vae/config.json` of diffusers describes.

        Args:
            config: content of the file.
            dtype: of the computation and the result; weights are float32 unless the caller casts them.
            kernels: of the device.

        Raises:
            ValueError: a field with a value that is not computed here, or fields that do not fit together:
                'field=value: expected ...'.
        """
        values = read_fields(config, FIELDS, ignored=IGNORED)
        widths, groups = values["block_out_channels"], values["norm_num_groups"]
        for name in ("down_block_types", "up_block_types"):
            expected = f"{len(widths)} values, as many as in block_out_channels"
            expect(len(values[name]) == len(widths), name, values[name], expected)
        divided = all(width % groups == 0 for width in widths)
        expect(divided, "norm_num_groups", groups, f"a divisor of block_out_channels={widths!r}")
        size = values["sample_size"]
        expect(not isinstance(size, tuple) or len(size) == 2, "sample_size", size, "height and width")
        return cls(FrozenDict(values), dtype=dtype, kernels=kernels)

    @property
    def sample_size(self) -> int | tuple[int, int]:
        """Height and width of the pictures that it was trained on, one number if they are the same."""
        return self.config["sample_size"]

    @property
    def in_channels(self) -> int:
        """Channels of the pictures."""
        return self.config["in_channels"]

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.config["latent_channels"]

    @property
    def downscale(self) -> int:
        """Pixels of a picture per position of its latents, on either axis."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    @property
    def scaling_factor(self) -> float:
        """What multiplies latents, less the shift, for the diffusion model; not computed here."""
        return self.config["scaling_factor"]

    @property
    def shift_factor(self) -> float | None:
        """What is taken from latents before they are scaled, or None; not computed here."""
        return self.config["shift_factor"]

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights."""
        side = self.downscale  # no weight depends on it
        return self.init(key, jnp.zeros((1, side, side, self.in_channels)))["params"]

    def setup(self) -> None:
        """Name the parts."""
        on_device = {"dtype": self.dtype, "kernels": self.kernels}
        channels = self.config["latent_channels"]
        self.encoder = Encoder(self.config, **on_device)
        self.decoder = Decoder(self.config, **on_device)
        if self.config["use_quant_conv"]:
            self.quant_conv = Conv(2 * channels, **_ONE_BY_ONE, **on_device)
        if self.config["use_post_quant_conv"]:
            self.post_quant_conv = Conv(channels, **_ONE_BY_ONE, **on_device)

    def encode(self, images: Array) -> tuple[Array, Array]:
        """Encode pictures.

        Args:
            images: [B, H, W, 3] in [-1, 1], H and W of any size.

        Returns:
            Mean and logarithm of the variance of the latents, [B, h, w, C] in `dtype` each, not scaled; the
            logarithm is clipped to [-30, 20], where its gradient stops.
        """
        hidden = self.encoder(images)
        moments = self.quant_conv(hidden) if self.config["use_quant_conv"] else hidden
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, *_LOG_VARIANCE)

    def decode(self, latents: Array) -> Array:
        """Decode latents.

        Args:
            latents: [B, h, w, C] of any size, neither scaled nor shifted any more.

        Returns:
            [B, H, W, 3] in `dtype` about [-1, 1], not clipped.
        """
        if self.config["use_post_quant_conv"]:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)

    def __call__(self, images: Array) -> Array:
        """Encode pictures and decode the means: [B, H, W, 3] -> [B, H', W', 3]."""
        return self.decode(self.encode(images)[0])
