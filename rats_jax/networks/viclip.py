"""ViCLIP, the dual encoder of videos: clips and texts on one unit sphere.

CLIP's towers, whose vision tower reads the patches of all frames at once.

Source: Wang et al., InternVid, arXiv 2307.06942, section 4; OpenGVLab/InternVideo, Data/InternVid/viclip,
ViCLIP.
"""

from __future__ import annotations

from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import zeros

from rats_jax.networks.clip import CLIPModel
from rats_jax.networks.clip_encoder import CLIPEncoder, make_norm
from rats_jax.networks.clip_vision import CLIPVisionConfig, CLIPVisionEmbeddings
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.types import Array, Key, Params


class ViCLIPVisionTransformer(nn.Module):
    """The vision tower: a class token and the patches of all frames attend to each other.

    Attributes:
        config: sizes, of CLIP's vision tower.
        num_frames: T, of a clip.
        dtype: of matrix products and of what they give; norms and softmax are float32 inside.
        kernels: of the device.
    """

    config: CLIPVisionConfig
    num_frames: int
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """Encode clips.

        Args:
            pixels: [B, T, S, S, C], normalised.

        Returns:
            The class token after the last layer and the norm behind it, [B, D] in `dtype`; differentiable in
            pixels.

        Raises:
            ValueError: clips of another shape.
        """
        chex.assert_rank(pixels, 5)
        side, width = self.config.image_size, self.config.hidden_size
        expected = (self.num_frames, side, side, self.config.num_channels)
        if pixels.shape[1:] != expected:
            raise ValueError(f"clips of {pixels.shape[1:]}: expected {expected}")
        embed = CLIPVisionEmbeddings(self.config, self.dtype, self.kernels, name="embeddings")
        tokens = embed(pixels.reshape(-1, *expected[1:])).reshape(*pixels.shape[:2], -1, width)
        moments = self.param("temporal_embedding", zeros, (self.num_frames, width))
        # Each frame has got a class token with its place in the frame: one is the clip's, and has no moment.
        class_token, patches = tokens[:, 0, :1], tokens[:, :, 1:] + moments[:, None]
        patches = patches.reshape(pixels.shape[0], -1, width)
        hidden = jnp.concatenate([class_token, patches], axis=1)
        hidden = make_norm(self.config, self.dtype, "pre_layrnorm")(hidden)  # spelt as in CLIP's files
        hidden, _ = CLIPEncoder(self.config, self.dtype, self.kernels, name="encoder")(hidden)
        return make_norm(self.config, self.dtype, "post_layernorm")(hidden[:, 0])


class ViCLIPModel(CLIPModel):
    """CLIP with a vision tower of clips, [B, T, S, S, 3] wherever CLIP's has pictures.

    Attributes:
        config, dtype, kernels: as of `CLIPModel`.
        num_frames: T, of a clip.
    """

    num_frames: int = 8

    def _make_vision_model(self) -> Any:
        return ViCLIPVisionTransformer(self.config.vision_config, self.num_frames, self.dtype, self.kernels)


def init_viclip(module: ViCLIPModel, key: Key) -> Params:
    """Draw the weights of a dual encoder of videos with `key`; float32."""
    text, vision = module.config.text_config, module.config.vision_config
    ids = jnp.zeros((1, text.max_position_embeddings), jnp.int32)
    side = vision.image_size
    pixels = jnp.zeros((1, module.num_frames, side, side, vision.num_channels))
    return module.init(key, ids, pixels)["params"]
