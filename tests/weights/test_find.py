"""Which of the files of a network are its weights: formats, variants, shards with an index."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from rats_jax.errors import WeightsError
from rats_jax.weights.find import find_weights
from rats_jax.weights.state_dict import open_weights

STEM = "diffusion_pytorch_model"
WANTED = {f"layer{i}": {"bias": np.zeros(2)} for i in range(4)}
TENSORS = {f"layer{i}.bias": np.full(2, i, np.float32) for i in range(4)}
FILES = {"a": ["layer0.bias", "layer1.bias"], "b": ["layer2.bias", "layer3.bias"]}


def find(folder, **options):
    return find_weights(str(folder), "unet", **({"transformers": False} | options)).name


def write(folder, *names):
    (folder / "unet").mkdir(exist_ok=True)
    for name in names:
        (folder / "unet" / name).write_text("x")


# The first of each is what is read.
PREFERRED = [
    [f"{STEM}.safetensors", f"{STEM}.fp16.safetensors", f"{STEM}.non_ema.safetensors", f"{STEM}.bin"],
    [f"{STEM}.safetensors.index.json", f"{STEM}.fp16.safetensors", f"{STEM}-00001-of-00002.safetensors"],
    [f"{STEM}.fp16.safetensors", f"{STEM}.bf16.safetensors", f"{STEM}.bin", f"{STEM}.non_ema.safetensors"],
    [f"{STEM}.bf16.safetensors", "diffusion_flax_model.msgpack"],
    [f"{STEM}.safetensors.index.bf16.json", f"{STEM}.bf16-00001-of-00002.safetensors"],
    ["diffusion_flax_model.msgpack", f"{STEM}.bin"],
    [f"{STEM}.bin", f"{STEM}.non_ema.safetensors", f"{STEM}.non_ema.bin"],
    [f"{STEM}.bin.index.json", f"{STEM}-00001-of-00002.bin"],
    [f"{STEM}.fp16.bin"],
    [f"{STEM}.non_ema.safetensors", f"{STEM}.non_ema.bin", f"{STEM}.non_ema-00001-of-00002.safetensors"],
    [f"{STEM}.non_ema.bin"],
    [f"{STEM}.fp32.safetensors"],
    [f"{STEM}.safetensors.index.non_ema.json", "config.json"],
]


@pytest.mark.parametrize("names", PREFERRED)
def test_the_plain_name_comes_first_and_a_variant_where_there_is_nothing_else(tmp_path, names):
    write(tmp_path, *names)
    assert find(tmp_path) == names[0]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "model.bf16.safetensors", "pytorch_model.non_ema.bin"]
)
def test_text_encoders_have_the_names_of_transformers(tmp_path, name):
    write(tmp_path, name)
    assert find(tmp_path, transformers=True) == name
    with pytest.raises(WeightsError, match=f"lacks 'unet/{STEM}.safetensors', .*; there are '{name}'$"):
        find(tmp_path)


def test_several_variants_are_a_question(tmp_path):
    write(tmp_path, f"{STEM}.non_ema.safetensors", f"{STEM}.fp32.safetensors")
    files = f"'unet/{STEM}.fp32.safetensors', 'unet/{STEM}.non_ema.safetensors'"
    with pytest.raises(
        WeightsError, match=f"has {files}: expected one of them, or one called 'unet/{STEM}.safe"
    ):
        find(tmp_path)


def test_without_weights_it_is_said_what_there_is(tmp_path):
    with pytest.raises(
        WeightsError, match=f"lacks 'unet/{STEM}.safetensors', its index, or the .* .msgpack$"
    ):
        find(tmp_path)
    write(tmp_path, *(f"{i}.ckpt" for i in range(8)))
    with pytest.raises(WeightsError, match="; there are '0.ckpt', .*'5.ckpt' and 2 more$"):
        find(tmp_path)


def write_shards(folder, suffix, *, files=FILES, index=None):
    """Write two files of weights, and an index of what is wanted to be in them."""
    for name, tensors in files.items():
        content = {tensor: TENSORS[tensor] for tensor in tensors}
        if suffix == "safetensors":
            save_file(content, folder / f"{name}.{suffix}")
        else:
            torch.save(
                {t: torch.from_numpy(value) for t, value in content.items()}, folder / f"{name}.{suffix}"
            )
    found = index or {tensor: f"{name}.{suffix}" for name in files for tensor in files[name]}
    file = folder / f"model.{suffix}.index.json"
    file.write_text(json.dumps({"metadata": {}, "weight_map": found}))
    return file


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_together(tmp_path, suffix):
    found = open_weights(write_shards(tmp_path, suffix), WANTED)
    assert [np.asarray(found[f"layer{i}"]["bias"]).tolist() for i in range(4)] == [[i, i] for i in range(4)]


INDEX = {tensor: f"{name}.safetensors" for name in FILES for tensor in FILES[name]}
BAD_INDEX = {
    "a file that is not there": (
        INDEX | {"layer3.bias": "c.safetensors"},
        "names 'c.safetensors': expected that",
    ),
    "a file elsewhere": (
        INDEX | {"layer3.bias": "../x.safetensors"},
        "names '../x.safetensors': expected that",
    ),
    "a file by its whole path": (
        INDEX | {"layer3.bias": "/x.safetensors"},
        "names '/x.safetensors': expected",
    ),
    "a folder": (INDEX | {"layer3.bias": "."}, "names '.': expected that file of weights beside it"),
    "no name": (INDEX | {"layer3.bias": ""}, "names '': expected that file of weights beside it"),
    "itself": (
        INDEX | {"layer3.bias": "model.safetensors.index.json"},
        "expected that file of weights beside",
    ),
    "a tensor that is nowhere": (
        INDEX | {"layer4.bias": "b.safetensors"},
        "'layer4.bias' is in 'b.safetensors': exp",
    ),
    "a number": (INDEX | {"layer3.bias": 3}, "expected a 'weight_map' of names"),
    "a list": ([1], "expected a 'weight_map' of names"),
    "the wrong file": (
        INDEX | {"layer3.bias": "a.safetensors"},
        "layer3.bias' is in 'a.safetensors': expected it",
    ),
    "not all": ({"layer0.bias": "a.safetensors"}, "'layer1.bias' is nowhere: it is in 'a.safetensors' too"),
}


@pytest.mark.parametrize("what", BAD_INDEX)
def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path, what):
    index, message = BAD_INDEX[what]
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(TENSORS, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=message):
        open_weights(write_shards(folder, "safetensors", index=index), WANTED)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    file = write_shards(
        tmp_path, "safetensors", files=FILES | {"b": [*FILES["b"], "layer0.bias"]}, index=INDEX
    )
    with pytest.raises(
        WeightsError, match="'layer0.bias' is in 'a.safetensors': it is in 'b.safetensors' too"
    ):
        open_weights(file, WANTED)


def test_a_tensor_that_an_index_lists_twice_is_refused(tmp_path):
    file = write_shards(tmp_path, "safetensors")
    file.write_text(file.read_text().replace('{"layer0', '{"layer0.bias": "b.safetensors", "layer0'))
    with pytest.raises(
        WeightsError, match="index.json' is no JSON file: the name 'layer0.bias' twice in one object"
    ):
        open_weights(file, WANTED)
