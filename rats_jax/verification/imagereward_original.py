"""PyTorch's original of ImageReward: transformers' BLIP with the weights of ImageReward's file.

Its names are turned into transformers'; what is compared is then the network, not the names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from rats_jax.rewards import imagereward
from rats_jax.verification.pretrained import to_tensors
from rats_jax.weights.folder import read_json
from rats_jax.weights.hub import get_file
from rats_jax.weights.state_dict import read_state_dict

_IMAGE, _TEXT, _HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
# Of the image tower, in the order in which they are replaced.
_NAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
)
_HEAD_WIDTH = 64
_MED_FIELDS = (
    *("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "layer_norm_eps"),
)


def load_imagereward(path: str, preprocess: Callable[[Any, int], Any]) -> tuple[Any, Callable[..., Any]]:
    """Load ImageReward.

    Args:
        path: folder, weights file or hub id; '' for the published weights.
        preprocess: (pictures, side) -> what the image tower reads.

    Returns:
        The towers, a torch module, and (pictures [B, 3, H, W], B prompts) -> scores [B].
    """
    import torch
    import transformers

    path = path or imagereward.PUBLISHED
    state = to_tensors(read_state_dict(get_file(path, *imagereward.FILES)))
    vision = _make_image_tower(_part(state, _IMAGE))
    text = _make_text_tower(_part(state, _TEXT), read_json(get_file(path, imagereward.CONFIG_FILE)), vision)
    head = _part(state, _HEAD)
    layers = sorted({int(name.split(".")[0]) for name in head})
    tokenizer = transformers.BertTokenizer(str(imagereward.find_vocabulary(path)))
    options = {"padding": "max_length", "truncation": True, "max_length": imagereward.MAX_LENGTH}

    def score_fn(images: Any, prompts: list[str]) -> Any:
        tokens = tokenizer(prompts, return_tensors="pt", **options).to(images.device)
        seen = vision(preprocess(images, vision.config.image_size)).last_hidden_state
        hidden = text(
            tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            is_decoder=False,
        ).last_hidden_state[:, 0]
        for layer in layers:
            weights = (head[f"{layer}.{kind}"].to(hidden.device) for kind in ("weight", "bias"))
            hidden = torch.nn.functional.linear(hidden, *weights)
        return (hidden[:, 0] - imagereward.MEAN) / imagereward.STD

    return torch.nn.ModuleList([vision, text]), score_fn


def _part(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Take the weights whose names begin with `prefix`, without it and without tables of positions."""
    names = [name for name in state if name.startswith(prefix) and not name.endswith("position_ids")]
    return {name.removeprefix(prefix): state[name] for name in names}


def _make_image_tower(state: dict[str, Any]) -> Any:
    from transformers.models.blip.configuration_blip import BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel

    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        num_attention_heads=width // _HEAD_WIDTH,
        image_size=patch * math.isqrt(state["pos_embed"].shape[1] - 1),
        patch_size=patch,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )
    renamed = {}
    for name, value in state.items():
        for ours, theirs in _NAMES:
            name = re.sub(ours, theirs, name)
        renamed[name] = value
    tower = BlipVisionModel(config)
    tower.load_state_dict(renamed)
    return tower.eval()


def _make_text_tower(state: dict[str, Any], med_config: Mapping[str, Any], vision: Any) -> Any:
    from transformers.models.blip.configuration_blip import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    sizes = {name: med_config[name] for name in _MED_FIELDS}
    seen = vision.config.hidden_size
    config = BlipTextConfig(**sizes, encoder_hidden_size=seen, hidden_act="gelu", is_decoder=True)
    tower = BlipTextModel(config, add_pooling_layer=False)
    tower.load_state_dict(state)
    return tower.eval()
