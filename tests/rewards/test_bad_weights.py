"""Files of another architecture, of another reward, or not whole: one line that names the file."""

import shutil

import pytest
import torch

from rats_jax.errors import WeightsError
from rats_jax.rewards import REWARDS
from tests.tiny import change_json


def drop(name):
    return lambda folder: (folder / name).unlink()


def rewrite_head(folder):
    torch.save({"layers.0.weight": torch.zeros(1, 7), "layers.0.bias": torch.zeros(1)}, folder / "h.pth")
    shutil.move(folder / "h.pth", folder / "sac+logos+ava1-l14-linearMSE.pth")


def no_layers(folder):
    torch.save({"weight": torch.zeros(3)}, folder / "sac+logos+ava1-l14-linearMSE.pth")


def integers(folder):
    layer = {"layers.0.weight": torch.ones(1, 24, dtype=torch.int32), "layers.0.bias": torch.zeros(1)}
    torch.save(layer, folder / "sac+logos+ava1-l14-linearMSE.pth")


def change(file, **fields):
    return lambda folder: change_json(folder / file, **fields)


LOST = "blip.text_encoder.encoder.layer.1.output.dense.bias"


def change_state(file, edit):
    def apply(folder):
        state = torch.load(folder / file)
        edit(state)
        torch.save(state, folder / file)

    return apply


BAD = {
    "ViT-H expected": (
        "hpsv2.1",
        drop("open_clip_config.json"),
        "HPS_v2.1_compressed.pt' does not fit .* shape",
    ),
    "the other version": ("hpsv2.0", drop("HPS_v2_compressed.pt"), r"lacks 'HPS_v2_compressed.pt'"),
    "no weights": (
        "pickscore",
        drop("model.safetensors"),
        "lacks 'model.safetensors' or .* or 'pytorch_mod",
    ),
    "no config": (
        "clipscore, open_clip",
        drop("open_clip_config.json"),
        "lacks 'config.json' or 'open_clip_config",
    ),
    "other depth": (
        "clipscore, transformers",
        change("config.json", text_config={"num_hidden_layers": 1}),
        "pytorch_model.bin' does not fit its architecture: ",
    ),
    "head of another width": (
        "aesthetic",
        rewrite_head,
        "linearMSE.pth' reads 7 numbers, expected the 24 of",
    ),
    "no head": (
        "aesthetic",
        no_layers,
        "linearMSE.pth': expected linear layers layers.0, ... down to",
    ),
    "a head of integers": (
        "aesthetic",
        integers,
        "linearMSE.pth': expected linear layers .* one number .ValueError: a layer holds integers.$",
    ),
    "no BERT config": ("imagereward", drop("med_config.json"), "lacks 'med_config.json'"),
    "half a BERT config": (
        "imagereward",
        lambda folder: (folder / "med_config.json").write_text('{"vocab_size": 21}'),
        "med_config.json': max_position_embeddings: expected an integer >= 1, it is missing",
    ),
    "a BERT config with a text": (
        "imagereward",
        change("med_config.json", hidden_size="24"),
        "med_config.json': hidden_size='24': expected an integer >= 1",
    ),
    "a BERT config with another activation": (
        "imagereward",
        change("med_config.json", hidden_act="relu"),
        "med_config.json': hidden_act='relu': expected 'gelu'",
    ),
    "a BERT config with relative positions": (
        "imagereward",
        change("med_config.json", position_embedding_type="relative_key"),
        "med_config.json': position_embedding_type='relative_key': expected 'absolute'",
    ),
    "a BERT config with too many layers": (
        "imagereward",
        change("med_config.json", num_hidden_layers=10**6),
        "med_config.json': num_hidden_layers=1000000: expected an integer from 1 to 200",
    ),
    "a vocabulary that is no text": (
        "imagereward",
        lambda folder: (folder / "vocab.txt").write_bytes(b"[PAD]\n\xe9\xff\n"),
        "vocab.txt': expected the vocabulary of BERT .line 2 is not UTF-8",
    ),
    "a vocabulary that was cut": (
        "imagereward",
        lambda folder: (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n"),
        "vocab.txt' has no token '.CLS.': expected the vocabulary of BERT",
    ),
    "other vocabulary": (
        "imagereward",
        lambda folder: (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na"),
        "vocab.txt' has 8 tokens with",
    ),
    "a layer lost": (
        "imagereward",
        change_state("ImageReward.pt", lambda s: s.pop(LOST)),
        f"missing {LOST}",
    ),
    "no image tower": (
        "imagereward",
        change_state("ImageReward.pt", lambda s: [s.pop(n) for n in list(s) if "visual" in n]),
        "ImageReward.pt' is no ImageReward",
    ),
    "no head of BLIP": (
        "imagereward",
        change_state("ImageReward.pt", lambda s: [s.pop(n) for n in list(s) if n.startswith("mlp")]),
        "expected linear layers mlp.layers.0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_it_is_refused_in_one_line(case, load_folder, tmp_path):
    original, damage, message = BAD[case]
    folder = shutil.copytree(load_folder(original), tmp_path / "damaged")
    damage(folder)
    with pytest.raises(WeightsError, match=message) as error:
        REWARDS[original.split(",")[0]].load(str(folder))
    assert "\n" not in str(error.value)
