"""PickScore, HPSv2, CLIPScore and the aesthetic predictor against their original networks in PyTorch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import CLIPConfig, CLIPTokenizer

from rats_jax.models.tokenizer import CLIP_VOCABULARY
from rats_jax.rewards import REWARDS
from tests.originals import import_open_clip, randomise

torch = pytest.importorskip("torch")

PROMPTS = ["a photo of a cat", "", "two red apples & a pear", "a very long prompt " * 30]
SIZES = {"tower": (32, 32), "wide": (40, 67), "tall": (71, 45), "small": (20, 24), "narrow": (90, 31)}
SIDE = 32
OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 48, "head_width": 12, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


def pictures(height, width, seed=0):
    return np.random.default_rng(seed).uniform(size=(len(PROMPTS), height, width, 3)).astype(np.float32)


def crop(images):
    """CLIPProcessor: the shorter edge to 32 pixels, the middle of the longer one."""
    _, _, height, width = images.shape
    short = min(height, width)
    size = int(SIDE * height / short), int(SIDE * width / short)
    images = torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True)
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return images[:, :, top : top + SIDE, left : left + SIDE]


def pad(images):
    """HPSv2's ResizeMaxSize: the longer edge to 32 pixels, black around."""
    _, _, height, width = images.shape
    size = [round(edge * SIDE / max(height, width)) for edge in (height, width)]
    images = torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True)
    rows, columns = SIDE - size[0], SIDE - size[1]
    margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return torch.nn.functional.pad(images, margins)


def normalise(images):
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def transformers_ids():
    tokenizer = CLIPTokenizer.from_pretrained(str(CLIP_VOCABULARY))
    return tokenizer(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids


def write_transformers(folder, *, seed, weights="model.safetensors", hidden_act="gelu"):
    """Write a CLIPModel folder of transformers, as PickScore_v1 and clip-vit-large-patch14 are."""
    from transformers import CLIPModel

    tower = {"hidden_act": hidden_act, "num_hidden_layers": 2, "num_attention_heads": 4}
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


def make_pickscore(folder):
    model = write_transformers(folder, seed=0)

    def score(images):
        text, image = transformers_features(model, normalise(crop(images)))
        return model.logit_scale.exp() * torch.cosine_similarity(text, image)

    return score


def make_clipscore_transformers(folder):
    model = write_transformers(folder, seed=1, weights="pytorch_model.bin", hidden_act="quick_gelu")

    def score(images):
        text, image = transformers_features(model, normalise(crop(images)))
        return 100 * torch.cosine_similarity(text, image).clamp(min=0)

    return score


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


def make_clipscore_open_clip(folder):
    cosine = make_open_clip(folder, seed=2, file="open_clip_pytorch_model.bin", quick_gelu=True)
    return lambda images: 100 * cosine(normalise(crop(images))).clamp(min=0)


def make_hpsv2(version, seed):
    def make(folder):
        cosine = make_open_clip(
            folder, seed=seed, file=f"HPS_{version}_compressed.pt", wrap=lambda state: {"state_dict": state}
        )
        return lambda images: cosine(normalise(pad(images)))

    return make


def make_aesthetic(folder):
    model = write_transformers(folder, seed=5, hidden_act="quick_gelu")
    sizes = [(24, 1024), (1024, 128), (128, 64), (64, 16), (16, 1)]
    layers = [torch.nn.Linear(*size) for size in sizes]
    dropouts = [torch.nn.Dropout(p) for p in (0.2, 0.2, 0.1)]
    # The published head: dropout after each of the first three layers, hence layers 0, 2, 4, 6 and 7.
    order = [layers[0], dropouts[0], layers[1], dropouts[1], layers[2], dropouts[2], layers[3], layers[4]]
    head = torch.nn.Module()
    head.layers = torch.nn.Sequential(*order)
    randomise(head, seed=6, scale=1.0)
    torch.save(head.state_dict(), folder / "sac+logos+ava1-l14-linearMSE.pth")
    assert list(head.state_dict())[-1] == "layers.7.bias"

    def score(images):
        image = model.get_image_features(normalise(crop(images)))
        return head.layers(torch.nn.functional.normalize(image, dim=-1))[:, 0]

    return score


ORIGINALS = {
    "pickscore": ("pickscore", make_pickscore),
    "hpsv2.0": ("hpsv2.0", make_hpsv2("v2", 3)),
    "hpsv2.1": ("hpsv2.1", make_hpsv2("v2.1", 4)),
    "clipscore, transformers": ("clipscore", make_clipscore_transformers),
    "clipscore, open_clip": ("clipscore", make_clipscore_open_clip),
    "aesthetic": ("aesthetic", make_aesthetic),
}


@pytest.fixture(scope="module", params=ORIGINALS)
def pair(request, tmp_path_factory):
    """The original as a function of torch images [B, 3, H, W], and our reward loaded from its file."""
    kind, make = ORIGINALS[request.param]
    folder = tmp_path_factory.mktemp("original")
    original = make(folder)
    return original, REWARDS[kind](str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_scores_and_gradients_are_those_of_the_original(pair, size):
    original, reward = pair
    images = pictures(*SIZES[size])
    leaf = torch.tensor(images).permute(0, 3, 1, 2).requires_grad_()
    expected = original(leaf)
    expected.sum().backward()
    expected_slope = leaf.grad.permute(0, 2, 3, 1).numpy()

    prompt = reward.prepare(PROMPTS)
    score = jax.jit(reward.reward_fn)(reward.params, images, prompt)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(reward.reward_fn(reward.params, x, prompt))))(images)
    assert score.dtype == jnp.float32 and score.shape == (len(PROMPTS),)
    np.testing.assert_allclose(score, expected.detach().numpy(), atol=1e-4)
    scale = np.abs(expected_slope).max()
    assert np.abs(slope - expected_slope).max() < 1e-3 * scale
    assert np.std(score) > 1e-3 and scale > 1e-6, "weights that tell nothing apart would agree with anything"
