"""ViCLIP: cos(text, video) of a CLIP that reads eight frames at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rats_jax.data.frames import middle_frames
from rats_jax.errors import WeightsError
from rats_jax.fields import integer, read_fields
from rats_jax.networks.clip import IMAGE_TOWER, CLIPConfig, to_unit_length
from rats_jax.networks.preprocess import crop_to_square_half_even, normalise
from rats_jax.networks.viclip import ViCLIPModel, init_viclip
from rats_jax.rewards.base import Reward
from rats_jax.rewards.dual_encoder import describe_towers
from rats_jax.types import Array, Params, RewardFn, RewardModel
from rats_jax.weights.clip_folder import Clip, embed_once, find_tokenizer
from rats_jax.weights.folder import describe, read_json
from rats_jax.weights.hub import get_file
from rats_jax.weights.open_clip import VIT_L_14, to_transformers_config, to_transformers_names
from rats_jax.weights.state_dict import StateDict, fit_state_dict, read_state_dict
from rats_jax.weights.tokenizers import CLIP_VOCABULARY, load_tokenizer

PUBLISHED = "OpenGVLab/ViCLIP"
FILES = ("ViClip-InternVid-10M-FLT.pth", "model.safetensors")
_HEAD_WIDTH = 64
_FRAMES, _TOKENS = 8, 32
_OWN = {"num_frames": integer(_FRAMES)}
# What a ViCLIP has and a CLIP has not, as transformers would name it.
_MOMENTS = "vision_model.temporal_embedding"
_PUBLISHED_CONFIG = {**VIT_L_14, "text_cfg": {**VIT_L_14["text_cfg"], "context_length": _TOKENS}}


def load_viclip(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load ViCLIP-L/14: `ViClip-InternVid-10M-FLT.pth`, or a copy as safetensors; or another one of its kind.

    R = cos(text, video), VBench's overall consistency: of eight equal parts of the video the middle frames,
    the last one again where there are fewer, cut to a square and normalised as CLIP's pictures are.

    Args:
        path: folder, the file itself or hub id; empty for the published weights. Sizes are those of the
            weights, with heads of 64. Another one is a folder with weights in transformers' names, the files
            of a CLIPTokenizer, and config.json: a transformers CLIPConfig with num_frames.
        dtype: compute dtype of the towers; norms and dot products stay float32.

    Returns:
        The reward, of videos; its prompt inputs are text embeddings [B, D] float32.

    Raises:
        WeightsError: files are missing, or weights are missing, extra or mis-shaped.

    Source:
        Wang et al., InternVid, arXiv 2307.06942, section 4 (the network); Vchitect/VBench,
        vbench/overall_consistency.py (the score).
    """
    file = get_file(path or PUBLISHED, *FILES)
    state, source = read_state_dict(file), str(file)
    if _MOMENTS in state:
        config_file = get_file(path, "config.json")
        config, source, vocabulary = read_json(config_file), str(config_file), find_tokenizer(path)
    else:
        config, state, vocabulary = _read_config(state, source=source), _to_clip_names(state), CLIP_VOCABULARY
    module, abstract = describe(source, lambda: make_viclip(config, dtype=dtype), init_viclip)
    params = fit_state_dict(state, abstract, source=str(file))
    tokenizer, text = load_tokenizer(vocabulary), module.config.text_config
    if text.vocab_size != len(tokenizer):
        raise WeightsError(
            f"weights file {str(file)!r} has {text.vocab_size} tokens, expected {len(tokenizer)}"
        )
    embed_prompts = embed_once(tokenizer, Clip(module, params), max_length=text.max_position_embeddings)
    return RewardModel(make_viclip_fn(module), {name: params[name] for name in IMAGE_TOWER}, embed_prompts)


def make_viclip(config: Mapping[str, Any], *, dtype: Any = jnp.float32) -> ViCLIPModel:
    """Build the dual encoder from a transformers CLIPConfig with num_frames.

    Raises:
        ValueError: a field is not computed here: '[tower.]name=value: expected ...'.
    """
    count = read_fields({name: config[name] for name in _OWN if name in config}, _OWN)["num_frames"]
    sizes = {name: value for name, value in config.items() if name not in (*_OWN, "model_type")}
    return ViCLIPModel(CLIPConfig.read(sizes), dtype, num_frames=count)


def make_viclip_fn(module: ViCLIPModel) -> RewardFn:
    """Compose the reward of videos; prompt inputs are text embeddings [B, D] float32."""

    def reward_fn(params: Params, videos: Array, prompt: Array) -> Array:
        return jnp.sum(embed_videos(module, params, videos) * prompt, axis=-1)

    return reward_fn


def embed_videos(module: ViCLIPModel, params: Params, videos: Array) -> Array:
    """Embed videos [B, T, H, W, 3] in [0, 1] on the unit sphere: [B, D] float32, differentiable in them."""
    frames = videos[:, middle_frames(videos.shape[1], module.num_frames)]
    flat = frames.reshape(-1, *frames.shape[2:])
    pixels = normalise(crop_to_square_half_even(flat, module.config.vision_config.image_size))
    clips = pixels.reshape(*frames.shape[:2], *pixels.shape[1:])
    return to_unit_length(module.apply({"params": params}, clips, method=module.project_images))


def _read_config(state: StateDict, *, source: str) -> dict[str, Any]:
    """Read off the weights the config of `make_viclip`."""
    vision, text = "vision_encoder.", "text_encoder."

    def layers(tower: str) -> int:
        blocks = f"{tower}transformer.resblocks."
        return len({name[len(blocks) :].split(".")[0] for name in state if name.startswith(blocks)})

    try:
        width, _, frames_at_once, patch_size, _ = state[f"{vision}conv1.weight"].shape
        positions, _ = state[f"{vision}positional_embedding"].shape
        image_size = patch_size * math.isqrt(positions - 1)
        once, num_frames, _ = state[f"{vision}temporal_positional_embedding"].shape
        _, embed_dim = state[f"{vision}proj"].shape
        vocab_size, text_width = state[f"{text}token_embedding.weight"].shape
        context_length, _ = state[f"{text}positional_embedding"].shape
    except (KeyError, ValueError) as error:
        raise WeightsError(f"weights file {source!r} is no ViCLIP: {error}") from None
    for what, found in (("patches of frames", frames_at_once), ("sets of moments", once)):
        if found != 1:
            raise WeightsError(f"weights file {source!r} has {what}: {found}, expected 1")
    vision_cfg = {
        "image_size": image_size,
        "patch_size": patch_size,
        "width": width,
        "layers": layers(vision),
    }
    text_cfg = {
        "context_length": context_length,
        "vocab_size": vocab_size,
        "width": text_width,
        "heads": text_width // _HEAD_WIDTH,
        "layers": layers(text),
    }
    sizes = {"embed_dim": embed_dim, "vision_cfg": vision_cfg, "text_cfg": text_cfg, "quick_gelu": True}
    return to_transformers_config(sizes, source=source) | {"num_frames": num_frames}


def _to_clip_names(state: StateDict) -> dict[str, np.ndarray]:
    """Rename ViCLIP's weights as transformers names CLIP's; what has no counterpart keeps its name."""
    renamed: dict[str, np.ndarray] = {}
    for name, value in state.items():
        tower, _, rest = name.partition(".")
        if name == "vision_encoder.temporal_positional_embedding":
            renamed[_MOMENTS] = value.reshape(value.shape[1:])
        elif name == "vision_encoder.conv1.weight":
            renamed["visual.conv1.weight"] = value.reshape(*value.shape[:2], *value.shape[3:])
        elif name == "temp":  # similarities are divided by it
            renamed["logit_scale"] = -np.log(np.asarray(value, np.float32))
        else:
            place = {"vision_encoder": "visual.", "text_encoder": ""}
            renamed[place[tower] + rest if tower in place else name] = value
    return to_transformers_names(renamed)


def describe_viclip(*, dtype: Any) -> RewardModel:
    """Describe ViCLIP-L/14 as published by shapes alone, see `Reward.describe`."""
    config = to_transformers_config(_PUBLISHED_CONFIG, source="published") | {"num_frames": _FRAMES}
    module = make_viclip(config, dtype=dtype)
    return describe_towers(module, init_viclip, make_viclip_fn(module))


VICLIP = Reward(load_viclip, describe_viclip, of_videos=True)
