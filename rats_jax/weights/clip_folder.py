"""Loading of CLIP in the formats of its publishers: transformers' and open_clip's, tower by tower."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.data.batches import map_batches
from rats_jax.errors import WeightsError
from rats_jax.networks.clip import IMAGE_TOWER, TEXT_TOWER, CLIPModel, embed_text, init_clip
from rats_jax.types import Params
from rats_jax.weights.clip_preprocess import check_preprocessing
from rats_jax.weights.find import TRANSFORMERS_WEIGHTS
from rats_jax.weights.folder import describe, read_json
from rats_jax.weights.hub import find_file, get_file
from rats_jax.weights.open_clip import is_open_clip, to_transformers_config, to_transformers_names
from rats_jax.weights.state_dict import fit_state_dict, read_state_dict
from rats_jax.weights.stored import read_all
from rats_jax.weights.tokenizer_files import TOKENIZER_FILES, WHOLE_TOKENIZER
from rats_jax.weights.tokenizers import CLIP_VOCABULARY, load_tokenizer, once_per_prompt, tokenize

# Prompts that the text tower reads at once; fewer are filled up, so that any number needs one program.
_TEXT_BATCH = 64

OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class Clip(NamedTuple):
    """A loaded dual encoder: the linen module of both towers, and weights, a tree of StoredArray."""

    module: Any
    params: Params


def load_clip(
    path: str,
    *,
    dtype: Any = jnp.float32,
    weights: tuple[str, ...] = TRANSFORMERS_WEIGHTS + OPEN_CLIP_WEIGHTS,
    default_config: Mapping[str, Any] | None = None,
    towers: tuple[str, ...] = IMAGE_TOWER + TEXT_TOWER,
) -> Clip:
    """Load a CLIP of two plain transformers, with weights in transformers' or open_clip's names.

    Args:
        path: folder, weights file or hub id; config.json (transformers) or open_clip_config.json lies beside
            the weights, and so does the tokenizer's vocab.json if it is not OpenAI's.
        dtype: compute dtype of the towers; norms stay float32.
        weights: file names, in the order of preference.
        default_config: an open_clip `model_cfg`, for weights that come without a config.
        towers: top-level names of the weights that are wanted.

    Returns:
        The dual encoder.

    Raises:
        WeightsError: files are missing, or weights are missing, extra or mis-shaped; it is made for pictures
            with other colours, or resized in another way, than are computed here.
    """
    config, source = read_clip_config(path, default_config)
    # Plain kernels on every device: cuDNN's attention takes neither the 257 tokens of a ViT/14 nor the 77 of
    # a prompt, and the one convolution of a tower has no loop around it.
    module, abstract = describe(source, lambda: CLIPModel.from_config(config, dtype=dtype), init_clip)
    if default_config is None:  # else the reward's own code says what it shows the tower
        check_preprocessing(path, image_size=module.config.vision_config.image_size)
    if source.endswith("open_clip_config.json"):  # other files there may be of the image tower alone
        weights = tuple(sorted(weights, key=lambda name: name not in OPEN_CLIP_WEIGHTS))
    file = get_file(path, *weights)
    state = read_state_dict(file, lambda shard: find_file(path, shard))
    if is_open_clip(state):
        state = to_transformers_names(state)
    wanted = {name: part for name, part in abstract.items() if name in towers}
    unused = tuple(name for name in abstract if name not in towers)
    return Clip(module, fit_state_dict(state, wanted, source=str(file), unused=unused))


def make_embed_prompts(path: str, clip: Clip) -> Callable[[list[str]], np.ndarray]:
    """Compose tokenizer and text tower.

    Args:
        path: as for `load_clip`.
        clip: with both towers.

    Returns:
        B prompts -> [B, D] float32 of length 1, each computed once; the weights of the text tower are on the
        device only while a prompt is new.

    Raises:
        WeightsError: the tokenizer is damaged, or does not fit the text tower.
    """
    return embed_once(load_tokenizer(find_tokenizer(path), clip.module.config.text_config), clip)


def embed_once(
    tokenizer: Any, clip: Clip, *, max_length: int | None = None
) -> Callable[[list[str]], np.ndarray]:
    """Compose a tokenizer and the text tower, see `make_embed_prompts`.

    Args:
        tokenizer: of CLIP.
        clip: with both towers.
        max_length: tokens of a prompt; None is the tokenizer's own.
    """
    text_tower = read_all({name: clip.params[name] for name in TEXT_TOWER})
    embed = jax.jit(functools.partial(embed_text, clip.module))

    def embed_prompts(prompts: list[str]) -> np.ndarray:
        ids = tokenize(tokenizer, prompts, max_length=max_length)
        return map_batches(functools.partial(embed, jax.device_put(text_tower)), ids, _TEXT_BATCH)

    return once_per_prompt(embed_prompts)


def read_clip_config(path: str, default: Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
    """Give the transformers config of a model, and where it comes from."""
    names = ("config.json", "open_clip_config.json") if default is None else ("open_clip_config.json",)
    file = find_file(path, *names)
    if file is None:
        if default is None:
            raise WeightsError(f"model {path!r} lacks {' or '.join(map(repr, names))}")
        return to_transformers_config(default, source="ViT-H-14"), "ViT-H-14"
    config = read_json(file)
    if file.name == "config.json":
        # timm's repositories have a config.json of timm beside open_clip's.
        other = None if "model_type" in config else find_file(path, names[-1])
        if other is None:
            return config, str(file)
        file, config = other, read_json(other)
    return to_transformers_config(config.get("model_cfg", {}), source=str(file)), str(file)


def find_tokenizer(path: str) -> Path:
    """Find the tokenizer beside the weights, or else take OpenAI's; from the hub all its files are needed."""
    files = {name: find_file(path, name) for name in TOKENIZER_FILES}
    found = files["vocab.json"] or files[WHOLE_TOKENIZER]
    return CLIP_VOCABULARY if found is None else found.parent
