"""UNet of Stable Diffusion 1.x, 2.x and XL: predicts noise, velocity or the clean latents from noisy ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict

from rats_jax.networks.abstract import Network
from rats_jax.networks.embeddings import TimestepEmbedding, timestep_embedding
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.layers import ACTIVATIONS, Conv, GroupNorm, match_batch
from rats_jax.networks.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from rats_jax.networks.transformer_2d import Transformer2DModel
from rats_jax.networks.unet_2d_blocks import DownBlock2D, MidBlock2D, UpBlock2D
from rats_jax.networks.unet_2d_config import (
    NUM_TIME_IDS,
    Level,
    levels_down,
    levels_up,
    mid_depth,
    read_config,
)
from rats_jax.types import Array, Key, Params


class UNet2DConditionModel(Network):
    """A UNet conditioned on a timestep and on the embeddings of a prompt; make one with `from_config`.

    Attributes:
        config: of the PyTorch class, as `read_config` gives it.
        dtype: of the computation and the result.
        kernels: of the device.

    Source: UNet2DConditionModel in diffusers/models/unets/unet_2d_condition.py.
    """

    config: Mapping[str, Any]
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, dtype: Any = jnp.float32, kernels: Kernels = PLAIN
    ) -> UNet2DConditionModel:
        """Make the network that a `unet/config.json` of diffusers describes.

        Args:
            config: content of the file.
            dtype: of the computation and the result; weights are float32 unless the caller casts them.
            kernels: of the device.

        Raises:
            ValueError: a field with a value that is not computed here, or fields that do not fit together:
                'field=value: expected ...'.
        """
        return cls(FrozenDict(read_config(config)), dtype=dtype, kernels=kernels)

    @property
    def sample_size(self) -> int | tuple[int, int] | None:
        """Height and width of the latents that it was trained on, one number if they are the same."""
        return self.config["sample_size"]

    @property
    def in_channels(self) -> int:
        """Channels of the latents."""
        return self.config["in_channels"]

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        return self.config["out_channels"]

    @property
    def cross_attention_dim(self) -> int:
        """Features of a token."""
        return self.config["cross_attention_dim"]

    @property
    def addition_embed_type(self) -> str | None:
        """What else it is conditioned on: 'text_time' for a pooled embedding and six numbers, or None."""
        return self.config["addition_embed_type"]

    @property
    def pooled_dim(self) -> int:
        """Features of the pooled embedding; 0 where there is none."""
        if self.addition_embed_type is None:
            return 0
        width = self.config["projection_class_embeddings_input_dim"]
        return width - NUM_TIME_IDS * self.config["addition_time_embed_dim"]

    def init_params(self, key: Key) -> Params:
        """Draw float32 weights."""
        side = 2 ** (len(self.config["block_out_channels"]) - 1)  # no weight depends on it
        latents = jnp.zeros((1, side, side, self.in_channels))
        tokens = jnp.zeros((1, 1, self.cross_attention_dim))
        pooled = jnp.zeros((1, self.pooled_dim))
        return self.init(key, latents, jnp.int32(0), tokens, pooled, jnp.zeros((1, NUM_TIME_IDS)))["params"]

    @nn.compact
    def __call__(
        self,
        latents: Array,
        timestep: Array,
        tokens: Array,
        pooled: Array | None = None,
        time_ids: Array | None = None,
    ) -> Array:
        """Predict from noisy latents.

        Args:
            latents: [B, H, W, C] of any size.
            timestep: [] or [B].
            tokens: [R * B, L, D], R prompts of each sample in a row; what comes before they are read is
                computed once for all R.
            pooled: [R * B, D'] of the prompts, read where `addition_embed_type` is 'text_time'.
            time_ids: [R * B, 6] sizes and crops in pixels, read with `pooled`.

        Returns:
            [R * B, H, W, C'] in `dtype`; differentiable in the weights and all inputs.
        """
        chex.assert_rank([latents, timestep, tokens], [4, {0, 1}, 3])
        chex.assert_is_divisible(tokens.shape[0], latents.shape[0])
        config = self.config
        if config["center_input_sample"]:
            latents = 2 * latents - 1.0
        timestep = jnp.broadcast_to(timestep, latents.shape[:1])
        time, tokens = self._embed_time(timestep, pooled, time_ids), tokens.astype(self.dtype)

        hidden = self._conv(config["block_out_channels"][0], "conv_in")(latents)
        hidden, skips = self._go_down(hidden, time, tokens)
        hidden = self._go_through_the_middle(hidden, time, tokens)
        hidden = self._go_up(hidden, time, tokens, skips)

        sizes = config["norm_num_groups"], config["norm_eps"]
        norm = GroupNorm(*sizes, self.dtype, self.kernels, name="conv_norm_out")
        hidden, _ = match_batch(ACTIVATIONS[config["act_fn"]](norm(hidden)), tokens)
        return self._conv(config["out_channels"], "conv_out")(hidden)

    def _embed_time(self, timestep: Array, pooled: Array | None, time_ids: Array | None) -> Array:
        """Embed the timestep, and SDXL's sizes and pooled embedding: [B, D]."""
        config = self.config
        width = config["block_out_channels"][0]
        features = config["time_embedding_dim"] or 4 * width
        embed = functools.partial(
            timestep_embedding, flip_sin_to_cos=config["flip_sin_to_cos"], freq_shift=config["freq_shift"]
        )
        make = functools.partial(TimestepEmbedding, features, dtype=self.dtype)
        time = make(config["act_fn"], config["timestep_post_act"], name="time_embedding")(
            embed(timestep, width)
        )
        if config["addition_embed_type"] is not None:
            chex.assert_rank([pooled, time_ids], 2)
            assert pooled is not None and time_ids is not None
            sizes = embed(time_ids.ravel(), config["addition_time_embed_dim"]).reshape(pooled.shape[0], -1)
            added = make(name="add_embedding")(jnp.concatenate([pooled, sizes], axis=-1))
            time, added = match_batch(time, added)
            time = time + added
        act_fn = config["time_embedding_act_fn"]
        return time if act_fn is None else ACTIVATIONS[act_fn](time)

    def _go_down(self, hidden: Array, time: Array, tokens: Array) -> tuple[Array, list[Array]]:
        skips, levels = [hidden], levels_down(self.config)
        make = functools.partial(
            Downsample2D, self.config["downsample_padding"], dtype=self.dtype, kernels=self.kernels
        )
        for i, level in enumerate(levels):
            block = DownBlock2D(
                resnet=self._resnet(level.features),
                num_layers=self.config["layers_per_block"][i],
                transformer=self._transformer(level),
                depths=level.depths,
                downsampler=make if i < len(levels) - 1 else None,
                name=f"down_blocks_{i}",
            )
            hidden, more = block(hidden, time, tokens)
            skips += more
        return hidden, skips

    def _go_through_the_middle(self, hidden: Array, time: Array, tokens: Array) -> Array:
        kind, lowest = self.config["mid_block_type"], levels_down(self.config)[-1]
        if kind is None:
            return hidden
        # Whatever the config says, the middle attends to positions as well.
        lowest = lowest._replace(has_transformers=kind.endswith("CrossAttn"), only_cross_attention=False)
        resnet = self._resnet(lowest.features, output_scale_factor=self.config["mid_block_scale_factor"])
        block = MidBlock2D(resnet, self._transformer(lowest), mid_depth(self.config), name="mid_block")
        return block(hidden, time, tokens)

    def _go_up(self, hidden: Array, time: Array, tokens: Array, skips: list[Array]) -> Array:
        levels, counts = levels_up(self.config), self.config["layers_per_block"][::-1]
        make = functools.partial(Upsample2D, dtype=self.dtype, kernels=self.kernels)
        for i, (level, count) in enumerate(zip(levels, counts, strict=True)):
            skips, own = skips[: -count - 1], skips[-count - 1 :]
            block = UpBlock2D(
                resnet=self._resnet(level.features),
                num_layers=count + 1,
                transformer=self._transformer(level),
                depths=level.depths,
                upsampler=make if skips else None,
                name=f"up_blocks_{i}",
            )
            # A size that was odd on the way down is not twice the one below it.
            size = (skips[-1].shape[1], skips[-1].shape[2]) if skips else None
            hidden = block(hidden, time, tokens, own, size)
        return hidden

    def _resnet(self, features: int, *, output_scale_factor: float = 1.0) -> Any:
        return functools.partial(
            ResnetBlock2D,
            features,
            self.config["norm_num_groups"],
            self.config["norm_eps"],
            act_fn=self.config["act_fn"],
            scale_shift=self.config["resnet_time_scale_shift"] == "scale_shift",
            output_scale_factor=output_scale_factor,
            dtype=self.dtype,
            kernels=self.kernels,
        )

    def _transformer(self, level: Level) -> Any:
        if not level.has_transformers:
            return None
        return functools.partial(
            Transformer2DModel,
            level.num_heads,
            num_groups=self.config["norm_num_groups"],
            use_linear_projection=self.config["use_linear_projection"],
            only_cross_attention=level.only_cross_attention,
            dtype=self.dtype,
            kernels=self.kernels,
        )

    def _conv(self, features: int, name: str) -> Conv:
        size = self.config[f"{name}_kernel"]
        reach = (size - 1) // 2
        options = {"kernel_size": (size, size), "padding": ((reach, reach), (reach, reach))}
        return Conv(features, **options, dtype=self.dtype, kernels=self.kernels, name=name)
