"""ImageReward: BLIP's text tower reads prompt and picture, an affine head scores what it read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import WeightsError
from rats_jax.fields import integer, needed, number, only, read_fields
from rats_jax.networks.blip import ImageTower, TextTower
from rats_jax.networks.preprocess import crop_to_square_half_even, normalise
from rats_jax.rewards.aesthetic import collapse_layers
from rats_jax.rewards.base import Reward
from rats_jax.types import Array, Params, PromptInputs, RewardFn, RewardModel
from rats_jax.weights.folder import describe, read_json
from rats_jax.weights.hub import find_file, get_file
from rats_jax.weights.state_dict import StateDict, fit_state_dict, read_state_dict
from rats_jax.weights.tokenizers import load_bert_tokenizer, once_per_prompt, tokenize

PUBLISHED = "THUDM/ImageReward"
PUBLISHED_VOCABULARY = "google-bert/bert-base-uncased"
FILES = ("ImageReward.pt", "ImageReward.safetensors", "model.safetensors")
CONFIG_FILE = "med_config.json"
MAX_LENGTH = 35
# Source: THUDM/ImageReward, ImageReward/ImageReward.py: moments of the scores of its training set.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
_HEAD_WIDTH = 64
# Source: BLIP's create_vit("large") and ImageReward's med_config.json.
_SIDE = 224
_MED_CONFIG = {
    "vocab_size": 30524,
    "max_position_embeddings": 512,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
}
_MED_FIELDS = {
    **{name: needed(integer(None)) for name in _MED_CONFIG},
    "num_hidden_layers": needed(integer(None, most=200)),
    "layer_norm_eps": needed(number(1e-12)),
    "hidden_act": only("gelu"),
    "position_embedding_type": only("absolute"),
    "add_cross_attention": only(True),
    "add_type_embeddings": only(False),
}
# About the file, training, or drawing texts; the sizes of the picture's tower are those of its weights.
_MED_IGNORED = (
    *("architectures", "model_type", "transformers_version", "torch_dtype", "gradient_checkpointing"),
    *("attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout", "initializer_range"),
    *("pad_token_id", "type_vocab_size", "use_cache", "encoder_width"),
)


def load_imagereward(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
    """Load ImageReward v1.0: `ImageReward.pt` (or a safetensors copy) with `med_config.json`.

    R = (w . h + b - 0.167) / 1.033 with h the text tower's output at the first token. The published head is
    five linear layers with nothing but dropout between them; w and b are their product.

    Args:
        path: folder, the file itself or hub id; empty for the published weights. BERT's vocab.txt lies beside
            the weights, or else is taken from the hub.
        dtype: compute dtype of the towers; norms, softmax and head stay float32.

    Returns:
        The reward, about -2.5 to 2; its prompt inputs are {"input_ids": [B, 35] int32, "mask": [B, 35] bool}.

    Raises:
        WeightsError: files are missing, or weights are missing, extra or mis-shaped.

    Source:
        Xu et al., ImageReward, arXiv 2304.05977, section 3; THUDM/ImageReward.
    """
    path = path or PUBLISHED
    config_file = get_file(path, CONFIG_FILE)
    file = get_file(path, *FILES)
    state, source = read_state_dict(file), str(file)
    image_tower = _make_image_tower(state, source=source, dtype=dtype)
    side = _image_side(state, image_tower.patch_size)
    config = read_json(config_file)
    (_, text_tower), abstract = describe(
        str(config_file),
        lambda: (image_tower, make_text_tower(config, dtype=dtype)),
        lambda towers, key: init_towers(towers[0], towers[1], side, key),
    )
    prefixes = {"image": "blip.visual_encoder.", "text": "blip.text_encoder."}
    params: dict[str, Any] = {
        tower: fit_state_dict(
            {name: value for name, value in state.items() if name.startswith(prefix)},
            abstract[tower],
            source=source,
            prefix=prefix,
        )
        for tower, prefix in prefixes.items()
    }
    weight, bias = collapse_layers(state, prefix="mlp.layers.", source=source)
    if weight.shape != (text_tower.width,):
        raise WeightsError(
            f"weights file {source!r}: its head reads {len(weight)} numbers, expected {text_tower.width}"
        )
    params |= {"weight": np.float32(weight), "bias": np.float32(bias)}
    tokenizer = _load_tokenizer(path, text_tower.vocab_size)

    def prepare(prompts: list[str]) -> PromptInputs:
        input_ids = tokenize(tokenizer, prompts, max_length=MAX_LENGTH)
        return {"input_ids": input_ids, "mask": input_ids != tokenizer.pad_token_id}

    return RewardModel(make_imagereward_fn(image_tower, text_tower, side), params, once_per_prompt(prepare))


def make_imagereward_fn(image_tower: ImageTower, text_tower: TextTower, side: int) -> RewardFn:
    """Compose the reward; weights are {"image", "text", "weight" [D], "bias" []}.

    Args:
        image_tower, text_tower: BLIP's.
        side: of the image tower's input, pixels.
    """

    def reward_fn(params: Params, images: Array, prompt: PromptInputs) -> Array:
        pixels = normalise(crop_to_square_half_even(images, side))
        tokens = image_tower.apply({"params": params["image"]}, pixels)
        hidden: Any = text_tower.apply(
            {"params": params["text"]}, prompt["input_ids"], prompt["mask"], tokens
        )
        first = hidden[:, 0].astype(jnp.float32)
        return (jnp.sum(first * params["weight"], axis=-1) + params["bias"] - MEAN) / STD

    return reward_fn


def make_text_tower(config: dict[str, Any], *, dtype: Any) -> TextTower:
    """Build the text tower from a `med_config.json` (as a dict); its width of the picture is not read.

    Raises:
        ValueError: a field is missing or wrong; names it.
    """
    values = read_fields(config, _MED_FIELDS, ignored=_MED_IGNORED)
    return TextTower(
        vocab_size=values["vocab_size"],
        max_positions=values["max_position_embeddings"],
        width=values["hidden_size"],
        depth=values["num_hidden_layers"],
        num_heads=values["num_attention_heads"],
        hidden_width=values["intermediate_size"],
        norm_eps=values["layer_norm_eps"],
        dtype=dtype,
    )


def init_towers(image_tower: ImageTower, text_tower: TextTower, side: int, key: Any) -> Params:
    """Initialise the weights of both towers with `key`; float32."""
    keys = jax.random.split(key)
    image = image_tower.init(keys[0], jnp.zeros((1, side, side, 3)))["params"]
    ids, tokens = jnp.zeros((1, MAX_LENGTH), jnp.int32), jnp.zeros((1, 1, image_tower.width))
    text = text_tower.init(keys[1], ids, ids == 0, tokens)["params"]
    return {"image": image, "text": text}


def _make_image_tower(state: StateDict, *, source: str, dtype: Any) -> ImageTower:
    """Read the sizes of the image tower off its weights: ViT-L/16 as published, heads of 64."""
    prefix = "blip.visual_encoder."
    try:
        width, _, patch_size, _ = state[f"{prefix}patch_embed.proj.weight"].shape
        blocks = {name.split(".")[3] for name in state if name.startswith(f"{prefix}blocks.")}
        return ImageTower(width, len(blocks), width // _HEAD_WIDTH, patch_size, dtype)
    except (KeyError, ValueError) as error:
        raise WeightsError(f"weights file {source!r} is no ImageReward: {error} in its image tower") from None


def _image_side(state: StateDict, patch_size: int) -> int:
    positions = state.get("blip.visual_encoder.pos_embed", np.zeros((1, 1, 1))).shape[1] - 1
    return patch_size * max(math.isqrt(positions), 1)


def find_vocabulary(path: str) -> Path:
    """Find BERT's vocab.txt beside the weights, or else take the published one."""
    return find_file(path, "vocab.txt") or get_file(PUBLISHED_VOCABULARY, "vocab.txt")


def _load_tokenizer(path: str, vocab_size: int) -> Any:
    file = find_vocabulary(path)
    tokenizer = load_bert_tokenizer(file, marks=("[DEC]", "[ENC]"))
    if len(tokenizer) != vocab_size:
        raise WeightsError(
            f"{str(file)!r} has {len(tokenizer)} tokens with [DEC] and [ENC], expected "
            f"vocab_size={vocab_size} of med_config.json"
        )
    return tokenizer


def describe_imagereward(*, dtype: Any) -> RewardModel:
    """Describe ImageReward as published by shapes alone, see `Reward.describe`."""
    image_tower = ImageTower(width=1024, depth=24, num_heads=16, patch_size=16, dtype=dtype)
    text_tower = make_text_tower(_MED_CONFIG, dtype=dtype)
    towers = jax.eval_shape(lambda: init_towers(image_tower, text_tower, _SIDE, jax.random.key(0)))
    head = {
        "weight": jax.ShapeDtypeStruct((text_tower.width,), jnp.float32),
        "bias": jax.ShapeDtypeStruct((), jnp.float32),
    }

    def prepare(prompts: list[str]) -> PromptInputs:
        shape = len(prompts), MAX_LENGTH
        return {
            "input_ids": jax.ShapeDtypeStruct(shape, jnp.int32),
            "mask": jax.ShapeDtypeStruct(shape, jnp.bool),
        }

    return RewardModel(make_imagereward_fn(image_tower, text_tower, _SIDE), towers | head, prepare)


IMAGEREWARD = Reward(load_imagereward, describe_imagereward)
