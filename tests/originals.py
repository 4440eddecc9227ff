"""What the originals of rewards share: PyTorch networks of random weights in the published formats."""

import importlib
import json
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPTokenizer

from rats_jax.verification import reward_originals
from rats_jax.weights.tokenizers import CLIP_VOCABULARY

PROMPTS = ["a photo of a cat", "", "two red apples & a pear", "a very long prompt " * 30]
SIDE = 32
OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIDE, "layers": 5, "width": 48, "head_width": 12, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}

_TORCHVISION = ["", ".transforms", ".transforms.functional", ".ops", ".ops.misc"]


def import_open_clip():
    """Import open_clip; where torchvision is missing or broken, a stand-in takes its place meanwhile.

    Its networks need nothing of torchvision, only its picture transforms do. torchvision on PyPI is built for
    CUDA and cannot be imported beside a CPU build of PyTorch.
    """
    importlib.import_module("transformers")  # it looks for torchvision too, and must not find the stand-in
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        stand_ins = {f"torchvision{name}": mock.MagicMock() for name in _TORCHVISION}
        sys.modules.update(stand_ins)
        try:
            return pytest.importorskip("open_clip")
        finally:
            for name in stand_ins:
                del sys.modules[name]
    return pytest.importorskip("open_clip")


def randomise(module, *, seed, scale=0.3):
    """Give a PyTorch network weights that make its outputs differ clearly from input to input."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(scale * noise / np.sqrt(parameter[0].numel() ** 0.5))
    return module.eval()


def crop(images):
    """CLIPProcessor: the shorter edge to 32 pixels, the middle of the longer one."""
    return reward_originals.crop(images, SIDE)


def crop_torchvision(images):
    """Resize and CenterCrop of torchvision, which rounds half a pixel to even."""
    return reward_originals.crop_half_even(images, SIDE)


def pad(images):
    """HPSv2's ResizeMaxSize: the longer edge to 32 pixels, black around."""
    return reward_originals.pad(images, SIDE)


def normalise(images):
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def transformers_ids():
    tokenizer = CLIPTokenizer.from_pretrained(str(CLIP_VOCABULARY))
    return tokenizer(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids


def write_transformers(folder, *, seed, weights="model.safetensors", hidden_act="gelu"):
    """Write a CLIPModel folder of transformers, as PickScore_v1 and clip-vit-large-patch14 are."""
    from transformers import CLIPModel

    tower = {"hidden_act": hidden_act, "num_hidden_layers": 5, "num_attention_heads": 4}
    config = CLIPConfig(
        projection_dim=24,
        text_config=tower | {"hidden_size": 32, "intermediate_size": 64, "eos_token_id": 49407},
        vision_config=tower
        | {"hidden_size": 48, "intermediate_size": 96, "image_size": SIDE, "patch_size": 8},
    )
    model = randomise(CLIPModel(config), seed=seed)
    model.save_pretrained(folder, safe_serialization=weights.endswith(".safetensors"))
    if not weights.endswith(".safetensors"):
        torch.save(model.state_dict(), folder / weights)
    return model


def transformers_features(model, pixels):
    text = model.get_text_features(transformers_ids())
    return text, model.get_image_features(pixels)


def make_open_clip(folder, *, seed, file, wrap=lambda state: state, **changes):
    """Write an open_clip checkpoint with the config that lies beside it on the hub."""
    open_clip = import_open_clip()
    config = OPEN_CLIP | changes
    model = randomise(open_clip.model.CLIP(**config), seed=seed)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.save(wrap(model.state_dict()), folder / file)
    ids = open_clip.tokenize(PROMPTS)

    def cosine(pixels):
        return (model.encode_image(pixels, normalize=True) * model.encode_text(ids, normalize=True)).sum(-1)

    return cosine


def make_head(width, *, seed, scale=1.0):
    """The published head of the aesthetic predictor and of ImageReward, layers 0, 2, 4, 6 and 7."""
    sizes = [(width, 1024), (1024, 128), (128, 64), (64, 16), (16, 1)]
    layers = [torch.nn.Linear(*size) for size in sizes]
    dropouts = [torch.nn.Dropout(p) for p in (0.2, 0.2, 0.1)]
    order = [layers[0], dropouts[0], layers[1], dropouts[1], layers[2], dropouts[2], layers[3], layers[4]]
    head = torch.nn.Module()
    head.layers = torch.nn.Sequential(*order)
    assert list(head.state_dict())[-1] == "layers.7.bias"
    return randomise(head, seed=seed, scale=scale)
