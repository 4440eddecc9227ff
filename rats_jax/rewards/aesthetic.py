"""LAION's aesthetic predictor v2: an affine map of CLIP's image embedding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import WeightsError
from rats_jax.networks.clip import IMAGE_TOWER, embed_images
from rats_jax.networks.preprocess import crop_to_square_half_even
from rats_jax.rewards.base import Reward
from rats_jax.rewards.dual_encoder import describe_dual_encoder
from rats_jax.types import Array, Params, RewardFn, RewardModel
from rats_jax.weights.clip_folder import load_clip
from rats_jax.weights.hub import get_file
from rats_jax.weights.open_clip import VIT_L_14
from rats_jax.weights.state_dict import StateDict, is_float, read_state_dict

PUBLISHED = "openai/clip-vit-large-patch14"
PUBLISHED_HEAD = "trl-lib/ddpo-aesthetic-predictor"
HEAD_FILES = ("sac+logos+ava1-l14-linearMSE.pth", "aesthetic-model.pth")


def load_aesthetic(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load CLIP's image tower and the head of the aesthetic predictor; prompts do not matter.

    R = w . e / |e| + b with e the image embedding. The published head is five linear layers with nothing but
    dropout between them; w and b are their product, computed once in float64.

    Args:
        path: folder with the CLIP and one of HEAD_FILES; empty for the published weights.
        dtype: compute dtype of the tower; norm and head stay float32.

    Returns:
        The reward, about 1 to 10; its prompt inputs are empty rows [B, 0].

    Raises:
        WeightsError: files are missing, or weights are missing, extra or mis-shaped.

    Source:
        Schuhmann, improved-aesthetic-predictor (LAION-Aesthetics v2), simple_inference.py.
    """
    clip = load_clip(path or PUBLISHED, dtype=dtype, towers=IMAGE_TOWER)
    head_file = get_file(path or PUBLISHED_HEAD, *HEAD_FILES)
    weight, bias = collapse_layers(read_state_dict(head_file), prefix="layers.", source=str(head_file))
    size = clip.module.config.projection_dim
    if weight.shape != (size,):
        raise WeightsError(
            f"weights file {str(head_file)!r} reads {len(weight)} numbers, expected the {size} of the CLIP"
        )

    params = {"clip": clip.params, "weight": np.float32(weight), "bias": np.float32(bias)}
    return RewardModel(
        make_aesthetic_fn(clip.module), params, lambda prompts: np.zeros((len(prompts), 0), np.float32)
    )


def make_aesthetic_fn(module: Any) -> RewardFn:
    """Compose the reward of a CLIP module; prompt inputs are empty rows [B, 0]."""

    def reward_fn(params: Params, images: Array, prompt: Array) -> Array:
        del prompt
        embeds = embed_images(module, params["clip"], images, preprocess=crop_to_square_half_even)
        return jnp.sum(embeds * params["weight"], axis=-1) + params["bias"]

    return reward_fn


def collapse_layers(state: StateDict, *, prefix: str, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Multiply out linear layers that follow each other without an activation.

    Args:
        state: `<prefix><i>.weight` [out, in] and `<prefix><i>.bias` [out], i ascending; others are ignored.
        prefix: of the layers' names.
        source: of the weights, for the message.

    Returns:
        w [in] float64 and b [] float64 of the one map w . x + b.

    Raises:
        WeightsError: there are no such layers, or they do not fit together into one number.
    """
    names = [name[len(prefix) : -len(".weight")] for name in state if name.startswith(prefix)]
    layers = sorted({name for name in names if name.isdigit()}, key=int)
    try:
        weight, bias = np.eye(state[f"{prefix}{layers[0]}.weight"].shape[1]), np.zeros(())
        for layer in layers:
            tensors = state[f"{prefix}{layer}.weight"], state[f"{prefix}{layer}.bias"]
            if not all(map(is_float, tensors)):
                raise ValueError("a layer holds integers")
            matrix, offset = (np.asarray(tensor, np.float64) for tensor in tensors)
            weight, bias = matrix @ weight, matrix @ bias + offset if bias.ndim else offset
        return weight.reshape(weight.shape[1]), bias.reshape(())
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(
            f"weights file {source!r}: expected linear layers {prefix}0, ... down to one number "
            f"({type(error).__name__}: {error})"
        ) from None


def describe_aesthetic(*, dtype: Any) -> RewardModel:
    """Describe the predictor as published by shapes alone, see `Reward.describe`."""
    clip = describe_dual_encoder(VIT_L_14, make_aesthetic_fn, dtype=dtype)
    params = {
        "clip": clip.params,
        "weight": jax.ShapeDtypeStruct((VIT_L_14["embed_dim"],), jnp.float32),
        "bias": jax.ShapeDtypeStruct((), jnp.float32),
    }
    return RewardModel(
        clip.reward_fn, params, lambda prompts: jax.ShapeDtypeStruct((len(prompts), 0), jnp.float32)
    )


AESTHETIC = Reward(load_aesthetic, describe_aesthetic)
