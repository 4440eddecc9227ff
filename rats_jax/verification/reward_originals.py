"""PyTorch's originals of rewards: transformers' CLIP, the head of the aesthetic predictor, the preprocessing.

open_clip's weights are renamed as transformers names them; what is compared is then the network, not the
names. Packages are imported when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rats_jax.networks.preprocess import MEAN, STD
from rats_jax.rewards import aesthetic, clipscore, hpsv2, pickscore
from rats_jax.verification import imagereward_original
from rats_jax.verification.pretrained import place_of, to_tensors, variant_of
from rats_jax.weights.clip_folder import OPEN_CLIP_WEIGHTS, find_tokenizer, read_clip_config
from rats_jax.weights.find import TRANSFORMERS_WEIGHTS
from rats_jax.weights.hub import get_file
from rats_jax.weights.open_clip import VIT_H_14, is_open_clip, to_transformers_names
from rats_jax.weights.state_dict import read_state_dict

ScoreFn = Callable[[Any, list[str]], Any]
"""(tensor [B, 3, H, W] in [0, 1], B prompts) -> scores [B], differentiable in the first."""
CropFn = Callable[[Any, int], Any]
"""(tensor [B, 3, H, W], side) -> [B, 3, side, side]."""


def _resize(images: Any, height: int, width: int) -> Any:
    import torch

    return torch.nn.functional.interpolate(images, (height, width), mode="bicubic", antialias=True)


def crop(images: Any, side: int, *, offset: Callable[[int], int] = lambda margin: margin // 2) -> Any:
    """Resize the shorter edge and cut the middle out of the longer one, as CLIP's processor does."""
    short = min(images.shape[-2:])
    height, width = (int(side * length / short) for length in images.shape[-2:])
    top, left = offset(height - side), offset(width - side)
    return _resize(images, height, width)[..., top : top + side, left : left + side]


def crop_half_even(images: Any, side: int) -> Any:
    """Crop as torchvision does, which rounds half a pixel to even."""
    return crop(images, side, offset=lambda margin: int(round(margin / 2.0)))


def pad(images: Any, side: int) -> Any:
    """Resize the longer edge and add black around, as HPSv2 does."""
    import torch

    longest = max(images.shape[-2:])
    resized = _resize(images, *(round(length * side / longest) for length in images.shape[-2:]))
    rows, columns = (side - length for length in resized.shape[-2:])
    margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return torch.nn.functional.pad(resized, margins)


def open_clip_model(path: str, weights: tuple[str, ...], default: Mapping[str, Any] | None) -> Any:
    """Open a CLIP of either format as transformers' CLIPModel, float32.

    Args:
        path: folder, weights file or hub id.
        weights: names of the file of weights, in the order of preference.
        default: open_clip's `model_cfg` where no file has one; None where there must be one.
    """
    import transformers

    file = get_file(path, *weights)
    state = read_state_dict(file, lambda shard: get_file(path, shard))
    if not is_open_clip(state) and default is None:
        place, revision = place_of(path)
        return (
            transformers.CLIPModel.from_pretrained(place, **revision, **variant_of(file.name)).float().eval()
        )
    config, _ = read_clip_config(path, default)
    model = transformers.CLIPModel(transformers.CLIPConfig(**config))
    model.load_state_dict(to_tensors(to_transformers_names(state) if is_open_clip(state) else state))
    return model.eval()


def _load_cosine(
    path: str,
    weights: tuple[str, ...],
    cut: CropFn,
    score: Callable[[Any, Any], Any],
    default: Mapping[str, Any] | None = None,
) -> ScoreFn:
    """Compose a score of the cosine between prompt and picture; `score` is of (cosine [B], logit_scale)."""
    import torch
    import transformers

    model = open_clip_model(path, weights, default)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(find_tokenizer(path)))
    length = model.config.text_config.max_position_embeddings

    def score_fn(images: Any, prompts: list[str]) -> Any:
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        ids = tokenizer(prompts, return_tensors="pt", **options).input_ids
        text = model.text_projection(model.text_model(ids.to(images.device)).pooler_output)
        image = _embed(model, _normalise(cut(images, model.config.vision_config.image_size)))
        return score(torch.cosine_similarity(text, image), model.logit_scale)

    return _on(model, score_fn)


def _embed(model: Any, pixels: Any) -> Any:
    """Embed pictures; what `get_image_features` gives is another thing since transformers 5."""
    return model.visual_projection(model.vision_model(pixels).pooler_output)


def _normalise(images: Any) -> Any:
    mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def _on(model: Any, score_fn: ScoreFn) -> ScoreFn:
    """Put a model where its pictures are; no gradient is taken of its weights."""
    model.requires_grad_(False)

    def placed(images: Any, prompts: list[str]) -> Any:
        model.to(images.device)
        return score_fn(images, prompts)

    return placed


def load_pickscore(path: str) -> ScoreFn:
    """Load PickScore as its model card has it."""
    path = path or pickscore.PUBLISHED
    return _load_cosine(path, TRANSFORMERS_WEIGHTS, crop, lambda cosine, scale: scale.exp() * cosine)


def load_clipscore(path: str) -> ScoreFn:
    """Load CLIPScore of any CLIP."""
    weights = TRANSFORMERS_WEIGHTS + OPEN_CLIP_WEIGHTS
    return _load_cosine(
        path or clipscore.PUBLISHED, weights, crop, lambda cosine, _: 100.0 * cosine.clamp(min=0)
    )


def _load_hpsv2(path: str, file: str) -> ScoreFn:
    return _load_cosine(path or hpsv2.PUBLISHED, (file,), pad, lambda cosine, _: cosine, VIT_H_14)


def load_aesthetic(path: str) -> ScoreFn:
    """Load the aesthetic predictor: a CLIP, and its linear layers one after the other."""
    import torch

    model = open_clip_model(path or aesthetic.PUBLISHED, TRANSFORMERS_WEIGHTS + OPEN_CLIP_WEIGHTS, None)
    head = get_file(path or aesthetic.PUBLISHED_HEAD, *aesthetic.HEAD_FILES)
    state = torch.load(head, map_location="cpu", weights_only=True)
    names = sorted({name.rpartition(".")[0] for name in state}, key=lambda name: int(name.split(".")[-1]))
    layers = [(state[f"{name}.weight"].float(), state[f"{name}.bias"].float()) for name in names]

    def score_fn(images: Any, prompts: list[str]) -> Any:
        pixels = _normalise(crop_half_even(images, model.config.vision_config.image_size))
        hidden = torch.nn.functional.normalize(_embed(model, pixels), dim=-1)
        for weight, bias in layers:
            hidden = torch.nn.functional.linear(hidden, weight.to(hidden.device), bias.to(hidden.device))
        return hidden[:, 0]

    return _on(model, score_fn)


def load_imagereward(path: str) -> ScoreFn:
    """Load ImageReward, whose pictures are cut as torchvision does."""
    return _on(
        *imagereward_original.load_imagereward(
            path, lambda images, side: _normalise(crop_half_even(images, side))
        )
    )


REWARD_ORIGINALS: Mapping[str, Callable[[str], ScoreFn]] = {
    "aesthetic": load_aesthetic,
    "clipscore": load_clipscore,
    "hpsv2.0": lambda path: _load_hpsv2(path, hpsv2.FILE_2_0),
    "hpsv2.1": lambda path: _load_hpsv2(path, hpsv2.FILE_2_1),
    "imagereward": load_imagereward,
    "pickscore": load_pickscore,
}
"""By kind: path of the weights, '' for the published ones -> the original. ViCLIP has no class in
transformers; the other kinds have no weights, or are of a file of one's own."""
