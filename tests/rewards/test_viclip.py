"""ViCLIP: its original in PyTorch, its size, its frames, and what refuses it."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from rats_jax.data.frames import middle_frames
from rats_jax.errors import ConfigError, WeightsError
from rats_jax.evaluation.fixed_set import open_judges
from rats_jax.networks.viclip import ViCLIPVisionTransformer
from rats_jax.rewards import REWARDS
from rats_jax.rewards.viclip import describe_viclip
from rats_jax.training.models import describe_models
from tests.originals import PROMPTS, SIDE, crop_torchvision, import_open_clip, normalise, randomise
from tests.rewards.conftest import QUICKLY
from tests.rewards.sizes import VIT_L, count
from tests.tiny import tiny_config

FILE = "ViClip-InternVid-10M-FLT.pth"
FRAMES, TOKENS = 4, 12


class Block(nn.Module):
    """A layer of both towers, named as in the published file."""

    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))


def make_layers(width):
    return nn.ModuleDict({"resblocks": nn.ModuleList(Block(width) for _ in range(5))})


class VisionTower(nn.Module):
    """The vision tower as OpenGVLab/InternVideo computes it, a patch's frames side by side."""

    def __init__(self, width=128, patch=8):
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), (1, patch, patch), bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // patch) ** 2 + 1, width))
        self.temporal_positional_embedding = nn.Parameter(torch.randn(1, FRAMES, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = make_layers(width)
        self.proj = nn.Parameter(torch.randn(width, 24))

    def forward(self, clips):
        x = self.conv1(clips.transpose(1, 2)).flatten(3)  # [B, D, T, patches]
        x = x.permute(0, 3, 2, 1) + self.positional_embedding[1:, None] + self.temporal_positional_embedding
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x.flatten(1, 2)], dim=1))
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj


class TextTower(nn.Module):
    """The text tower as OpenGVLab/InternVideo computes it."""

    def __init__(self, width=64):
        super().__init__()
        self.token_embedding = nn.Embedding(49408, width)
        self.positional_embedding = nn.Parameter(torch.randn(TOKENS, width))
        self.transformer = make_layers(width)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, 24))

    def forward(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)
        for block in self.transformer["resblocks"]:
            x = block(x, mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(-1)] @ self.text_projection


def choose(length):
    """Frames that VBench takes, one by one."""
    parts = min(FRAMES, length)
    edges = [int(length * i / parts) for i in range(parts + 1)]
    chosen = [(a + b - 1) // 2 for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return chosen + [chosen[-1]] * (FRAMES - parts)


def make_viclip(folder):
    model = nn.Module()
    model.vision_encoder, model.text_encoder = VisionTower(), TextTower()
    model.temp = nn.Parameter(torch.ones([]) / 100)
    randomise(model, seed=11)
    with torch.no_grad():  # or one moment would hardly differ from another
        model.vision_encoder.temporal_positional_embedding.copy_(torch.randn(1, FRAMES, 128) / 2)
        model.temp.fill_(0.01)
    torch.save({"model": model.state_dict()}, folder / FILE)
    ids = import_open_clip().tokenize(PROMPTS, context_length=TOKENS)

    def score(videos):
        frames = videos[:, choose(videos.shape[1])]
        pixels = normalise(crop_torchvision(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])
        return nn.functional.cosine_similarity(model.vision_encoder(pixels), model.text_encoder(ids))

    return score


ORIGINALS = {"viclip": ("viclip", make_viclip)}


def test_it_has_the_published_number_of_weights():
    assert count(describe_viclip(dtype=jnp.bfloat16).params) == VIT_L + 8 * 1024


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [0] * 8),
        (5, [0, 1, 2, 3, 4, 4, 4, 4]),
        (8, range(8)),
        (9, [0, 1, 2, 3, 4, 5, 6, 7]),
        (17, [0, 2, 4, 6, 8, 10, 12, 15]),
        (81, [4, 14, 24, 34, 44, 54, 64, 75]),
    ],
)
def test_its_frames_are_those_of_vbench(length, expected):
    np.testing.assert_array_equal(middle_frames(length, 8), list(expected))


def test_short_videos_and_the_order_of_frames(load_case, load_folder):
    case = load_case("viclip")
    prompt = case.reward.prepare(PROMPTS)
    score_fn = jax.jit(case.reward.reward_fn, compiler_options=QUICKLY)
    videos = case.draw(len(PROMPTS), SIDE, SIDE)
    for length in (3, 1):
        expected = case.original(torch.tensor(videos[:, :length]).movedim(-1, -3)).detach().numpy()
        np.testing.assert_allclose(
            score_fn(case.reward.params, videos[:, :length], prompt), expected, atol=1e-4
        )
    forwards, backwards = (
        score_fn(case.reward.params, order, prompt) for order in (videos[:, :3], videos[:, 2::-1])
    )
    assert np.abs(forwards - backwards).max() > 1e-2


@pytest.mark.parametrize("shape", [(3, SIDE, SIDE, 3), (FRAMES, SIDE, 8, 3), (FRAMES, SIDE, SIDE, 4)])
def test_clips_of_another_shape_are_refused(shape):
    config = SimpleNamespace(image_size=SIDE, hidden_size=64, num_channels=3)
    tower = ViCLIPVisionTransformer(config, FRAMES)
    message = f"^clips of {re.escape(str(shape))}: expected {re.escape(str((FRAMES, SIDE, SIDE, 3)))}"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, *shape)))


def rewrite(folder, edit):
    state = torch.load(folder / FILE)["model"]
    edit(state)
    torch.save({"model": state}, folder / FILE)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("vision_encoder.proj"), "is no ViCLIP: 'vision_encoder.proj'$"),
        (lambda s: s.pop("text_encoder.ln_final.bias"), "missing text_model.final_layer_norm.bias$"),
        (lambda s: s.update({"vision_encoder.conv1.weight": torch.zeros(128, 3, 2, 8, 8)}), "frames: 2, exp"),
        (lambda s: s.update({"vision_encoder.conv1.weight": torch.zeros(128, 3, 8, 8)}), "is no ViCLIP: not"),
        (
            lambda s: s.update({"text_encoder.token_embedding.weight": torch.zeros(9, 64)}),
            "has 9 tokens, exp",
        ),
        (lambda s: s.update({"head.weight": torch.zeros(9)}), "unexpected head.weight$"),
    ],
)
def test_other_files_are_one_line(edit, message, load_folder, tmp_path):
    (tmp_path / FILE).write_bytes((load_folder("viclip") / FILE).read_bytes())
    rewrite(tmp_path, edit)
    with pytest.raises(WeightsError, match=message) as error:
        REWARDS["viclip"].load(str(tmp_path))
    assert "\n" not in str(error.value) and FILE in str(error.value)


def test_where_there_are_no_videos_it_is_refused_before_it_is_read(models, tmp_path):
    config = tiny_config(models)
    config.rewards.clip = config.rewards[next(iter(config.rewards))].copy_and_resolve_references()
    config.rewards.clip.update({"kind": "viclip", "path": str(tmp_path)})
    message = (
        "^rewards.clip.kind='viclip': expected a reward of pictures: this one is of videos, the model is"
    )
    for find in (describe_models, open_judges):
        with pytest.raises(ConfigError, match=message):
            find(config)
