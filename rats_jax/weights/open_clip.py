"""open_clip's names and configs as those of transformers' CLIP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rats_jax.errors import WeightsError
from rats_jax.fields import Field, flag, integer, needed, number, read_fields

# Source: mlfoundations/open_clip, model_configs/ViT-H-14.json.
VIT_H_14: Mapping[str, Any] = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
}
"""The architecture of PickScore and HPSv2."""

# Source: mlfoundations/open_clip, model_configs/ViT-L-14.json; openai/clip-vit-large-patch14 on the hub.
VIT_L_14: Mapping[str, Any] = {
    "embed_dim": 768,
    "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
    "quick_gelu": True,
}
"""The architecture of OpenAI's ViT-L/14: CLIPScore's default, and the aesthetic predictor's tower."""

_SIZE, _LAYERS = needed(integer(None)), needed(integer(None, most=200))
_RATIO = Field(4.0, lambda value: number(4.0).holds(value) and value <= 1000, "a number > 0 and <= 1000")
_SECTION = needed(Field(None, lambda value: isinstance(value, Mapping), "an object"))
_FIELDS: Mapping[str, Mapping[str, Field]] = {
    "": {"embed_dim": _SIZE, "vision_cfg": _SECTION, "text_cfg": _SECTION, "quick_gelu": flag(False)},
    "vision_cfg": {
        **dict.fromkeys(("image_size", "width", "patch_size"), _SIZE),
        **{"layers": _LAYERS, "head_width": integer(64), "mlp_ratio": _RATIO},
    },
    "text_cfg": {
        **dict.fromkeys(("context_length", "vocab_size", "width", "heads"), _SIZE),
        **{"layers": _LAYERS, "mlp_ratio": _RATIO},
    },
}
_NAMES = {
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",  # transformers' spelling
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")
_NOT_WEIGHTS = ("attn_mask",)


def is_open_clip(names: Mapping[str, Any]) -> bool:
    """Tell whether a state dict has open_clip's names, which are also those of OpenAI's own checkpoints."""
    return "visual.conv1.weight" in names


def to_transformers_config(config: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Translate the `model_cfg` of an open_clip config into transformers' CLIPConfig, as a dict.

    Args:
        config: embed_dim, vision_cfg and text_cfg of two transformers; quick_gelu.
        source: for the message.

    Raises:
        WeightsError: it describes other networks than two plain transformers, or lacks a size.
    """
    whole = _read_section(config, "", source=source)
    vision, text = (_read_section(whole[name], name, source=source) for name in ("vision_cfg", "text_cfg"))
    shared = {
        "hidden_act": "quick_gelu" if whole["quick_gelu"] else "gelu",
        "projection_dim": whole["embed_dim"],
    }
    vision_config = {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "hidden_size": vision["width"],
        "intermediate_size": int(vision["width"] * vision["mlp_ratio"]),
        "num_hidden_layers": vision["layers"],
        "num_attention_heads": vision["width"] // vision["head_width"],
    }
    text_config = {
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context_length"],
        "hidden_size": text["width"],
        "intermediate_size": int(text["width"] * text["mlp_ratio"]),
        "num_hidden_layers": text["layers"],
        "num_attention_heads": text["heads"],
        # transformers takes this id as the sign of old checkpoints, which pool at the largest token id.
        "eos_token_id": 2,
    }
    return {
        "projection_dim": whole["embed_dim"],
        "vision_config": shared | vision_config,
        "text_config": shared | text_config,
    }


def _read_section(content: Mapping[str, Any], section: str, *, source: str) -> dict[str, Any]:
    """Read a section of an open_clip config, or its top level as ''; raises as `to_transformers_config`."""
    place, known = f"{section}." if section else "", _FIELDS[section]
    if others := set(content) - set(known):
        raise WeightsError(
            f"{source!r} has the field {place + min(others)!r}, expected a CLIP of two plain "
            f"transformers ({', '.join(sorted(known))})"
        )
    try:
        return read_fields(content, known)
    except ValueError as error:
        raise WeightsError(f"{source!r} is no open_clip config: {place}{error}") from None


def to_transformers_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the weights of an open_clip checkpoint; what has no counterpart keeps its name.

    Args:
        state: weights in open_clip's names.

    Returns:
        Weights in transformers' names: projections transposed, joint attention weights split in three.

    Source: transformers, convert_clip_original_pytorch_to_hf.py (the correspondence).
    """
    renamed: dict[str, np.ndarray] = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        block = _BLOCK.fullmatch(name)
        if name in _NAMES:
            renamed[_NAMES[name]] = value.T if name in ("visual.proj", "text_projection") else value
        elif module in _NORMS:
            renamed[f"{_NORMS[module]}.{kind}"] = value
        elif block:
            tower = "vision_model" if block[1] else "text_model"
            layer = f"{tower}.encoder.layers.{block[2]}"
            if block[3] == "attn.in_proj":
                for part, piece in zip("qkv", np.split(value, 3), strict=True):
                    renamed[f"{layer}.self_attn.{part}_proj.{block[4]}"] = piece
            else:
                renamed[f"{layer}.{_PARTS.get(block[3], block[3])}.{block[4]}"] = value
        elif name not in _NOT_WEIGHTS:
            renamed[name] = value
    return renamed
