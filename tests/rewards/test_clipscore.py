"""CLIPScore: its originals of transformers and of open_clip, and its size."""

import jax.numpy as jnp
import torch

from rats_jax.rewards.clipscore import describe_clipscore
from tests.originals import crop, make_open_clip, normalise, transformers_features, write_transformers
from tests.rewards.sizes import VIT_L, count


def make_clipscore_transformers(folder):
    model = write_transformers(folder, seed=6, weights="pytorch_model.bin", hidden_act="quick_gelu")

    def score(images):
        text, image = transformers_features(model, normalise(crop(images)))
        return 100 * torch.cosine_similarity(text, image).clamp(min=0)

    return score


def make_clipscore_open_clip(folder):
    cosine = make_open_clip(folder, seed=2, file="open_clip_pytorch_model.bin", quick_gelu=True)
    return lambda images: 100 * cosine(normalise(crop(images))).clamp(min=0)


def make_clipscore_timm(folder):
    """A repository of timm's, with its own config.json and the image tower alone beside open_clip's files."""
    score = make_clipscore_open_clip(folder)
    (folder / "config.json").write_text('{"architecture": "vit_base_patch32_clip_224", "num_classes": 512}')
    (folder / "model.safetensors").write_bytes(b"")
    return score


ORIGINALS = {
    "clipscore, transformers": ("clipscore", make_clipscore_transformers),
    "clipscore, open_clip": ("clipscore", make_clipscore_open_clip),
    "clipscore, timm": ("clipscore", make_clipscore_timm),
}


def test_it_has_the_published_number_of_weights():
    assert count(describe_clipscore(dtype=jnp.bfloat16).params) == VIT_L
