"""CLIP, the dual encoder: pictures and texts on one unit sphere.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, arXiv
2103.00020; transformers, models/clip/modeling_clip.py, CLIPModel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import constant, normal

from rats_jax.fields import Field, integer, number, one_of, read_fields
from rats_jax.networks.clip_encoder import TOWER_IGNORED
from rats_jax.networks.clip_text import TEXT_FIELDS, CLIPTextConfig, CLIPTextTransformer
from rats_jax.networks.clip_vision import VISION_FIELDS, CLIPVisionConfig, CLIPVisionTransformer
from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.networks.preprocess import PreprocessFn, crop_to_square, normalise
from rats_jax.networks.pretrained_fields import PRETRAINED_FIELDS
from rats_jax.types import Array, Key, Params

IMAGE_TOWER = ("vision_model", "visual_projection", "logit_scale")
"""The top-level names of the weights that `embed_images` is given; the module asks for logit_scale always."""
TEXT_TOWER = ("text_model", "text_projection", "logit_scale")
"""The top-level names of the weights that `embed_text` is given."""

_TOWER = Field(None, lambda value: value is None or isinstance(value, Mapping), "an object, or null")
_FIELDS = {
    **PRETRAINED_FIELDS,
    "model_type": one_of("clip"),
    "text_config": _TOWER,
    "vision_config": _TOWER,
    "text_config_dict": _TOWER,
    "vision_config_dict": _TOWER,
    "projection_dim": integer(512),
    "logit_scale_init_value": number(2.6592, positive=False),
}
_Config = TypeVar("_Config")


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of a dual encoder.

    Attributes:
        text_config, vision_config: of its towers.
        projection_dim: P, of the embeddings that the towers share.
        logit_scale_init_value: logarithm of what similarities are multiplied by, before training.
    """

    text_config: CLIPTextConfig
    vision_config: CLIPVisionConfig
    projection_dim: int
    logit_scale_init_value: float

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> CLIPConfig:
        """Read a transformers config.json; ValueError '[tower.]name=value: expected ...'."""
        values = read_fields(config, _FIELDS, ignored=TOWER_IGNORED)
        return cls(
            _read_tower(values, "text_config", CLIPTextConfig.read, TEXT_FIELDS),
            _read_tower(values, "vision_config", CLIPVisionConfig.read, VISION_FIELDS),
            values["projection_dim"],
            values["logit_scale_init_value"],
        )


def _read_tower(
    values: Mapping[str, Any],
    name: str,
    read: Callable[[Mapping[str, Any]], _Config],
    fields: Mapping[str, Field],
) -> _Config:
    """Read the config of a tower.

    Files of before transformers 4.27 have it twice, shortened as `text_config_dict`. As in transformers, the
    short one counts, and its defaults too, whatever the long one says: OpenAI's files give eos_token_id=2 in
    the long one alone, and are pooled at 49407.
    """
    long, short = values[name] or {}, values[f"{name}_dict"]
    if short is not None:
        long = {**long, **{field: fields[field].default for field in fields}, **short}
    try:
        return read(long)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None


class CLIPModel(nn.Module):
    """Two towers with projections to embeddings of one size.

    Attributes:
        config: sizes.
        dtype: of matrix products and of what they give; norms and softmax are float32 inside.
        kernels: of the device.
    """

    config: CLIPConfig
    dtype: Any = jnp.float32
    kernels: Kernels = PLAIN

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, dtype: Any = jnp.float32, kernels: Kernels = PLAIN
    ) -> CLIPModel:
        """Build it from a transformers config.json.

        Args:
            config: its content.
            dtype: compute dtype of the towers.
            kernels: of the device.

        Raises:
            ValueError: a field is not computed here: '[tower.]name=value: expected ...'.
        """
        return cls(CLIPConfig.read(config), dtype, kernels)

    def setup(self) -> None:
        self.text_model = CLIPTextTransformer(self.config.text_config, self.dtype, self.kernels)
        self.vision_model = self._make_vision_model()
        self.visual_projection = self._project()
        self.text_projection = self._project()
        self.logit_scale = self.param("logit_scale", constant(self.config.logit_scale_init_value), ())

    def _make_vision_model(self) -> Any:
        return CLIPVisionTransformer(self.config.vision_config, self.dtype, self.kernels)

    def _project(self) -> nn.Dense:
        return nn.Dense(
            self.config.projection_dim, use_bias=False, dtype=self.dtype, kernel_init=normal(0.02)
        )

    def project_images(self, pixels: Array) -> Array:
        """Embed normalised pixels [B, S, S, 3], S the tower's image_size: [B, P] of any length."""
        return self.visual_projection(self.vision_model(pixels))

    def project_text(self, input_ids: Array) -> Array:
        """Embed token ids [B, L] int32: [B, P] of any length."""
        return self.text_projection(self.text_model(input_ids).pooled)

    def __call__(self, input_ids: Array, pixels: Array) -> Array:
        """Compare texts with pictures.

        logits_ij = exp(logit_scale) * cos(picture i, text j).

        Args:
            input_ids: [B, L] int32.
            pixels: [A, S, S, 3], normalised.

        Returns:
            Logits [A, B] float32.
        """
        images, texts = self.project_images(pixels), self.project_text(input_ids)
        scale = jnp.exp(self.logit_scale.astype(jnp.float32))
        return scale * to_unit_length(images) @ to_unit_length(texts).T


def init_clip(module: CLIPModel, key: Key) -> Params:
    """Draw the weights of a dual encoder with `key`; float32."""
    text, vision = module.config.text_config, module.config.vision_config
    ids = jnp.zeros((1, text.max_position_embeddings), jnp.int32)
    pixels = jnp.zeros((1, vision.image_size, vision.image_size, vision.num_channels))
    return module.init(key, ids, pixels)["params"]


def embed_images(
    module: CLIPModel, params: Params, images: Array, *, preprocess: PreprocessFn = crop_to_square
) -> Array:
    """Embed images on the unit sphere.

    Args:
        module: of a dual encoder.
        params: weights, of which those of IMAGE_TOWER are read.
        images: [B, H, W, 3] in [0, 1].
        preprocess: makes them square.

    Returns:
        [B, P] float32, of length 1; differentiable in images, also in those without any contrast.
    """
    chex.assert_rank(images, 4)
    pixels = normalise(preprocess(images, module.config.vision_config.image_size))
    return to_unit_length(module.apply({"params": params}, pixels, method=module.project_images))


def embed_text(module: CLIPModel, params: Params, input_ids: Array) -> Array:
    """Embed token ids [B, L] on the unit sphere: [B, P] float32; reads the weights of TEXT_TOWER."""
    return to_unit_length(module.apply({"params": params}, input_ids, method=module.project_text))


def to_unit_length(x: Any) -> Array:
    """Scale [..., P] to unit length in float32; unlike jnp.linalg.norm, the gradient at zero is finite."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
