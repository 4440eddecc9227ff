"""What a CLIP's own files say of its pictures is computed, or refused by name."""

import json
import shutil

import pytest
import transformers

from rats_jax.errors import WeightsError
from rats_jax.paths import resolve_path
from rats_jax.rewards.clipscore import load_clipscore
from rats_jax.weights.clip_preprocess import check_preprocessing

OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def write(folder, name, config):
    (folder / name).write_text(json.dumps(config))
    return str(folder)


def test_a_folder_that_says_nothing_is_taken(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    check_preprocessing(str(tmp_path), image_size=32)


def test_what_transformers_and_open_clip_write_is_taken(tmp_path):
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert written["image_mean"] and written["resample"] == 3
    options = {"mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
    options["size"] = [32, 32]
    write(tmp_path, "open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": OPENAI | options})
    check_preprocessing(str(tmp_path), image_size=32)
    # The sizes and names of older files.
    fast = {"default_to_square": False, "use_square_size": False}
    old = written | fast | {"size": 32, "crop_size": 32, "feature_extractor_type": "CLIPFeatureExtractor"}
    check_preprocessing(write(tmp_path, "preprocessor_config.json", old), image_size=32)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_mean", [0.5, 0.5, 0.5]),
        ("image_std", [0.5, 0.5, 0.5]),
        ("image_std", 0.5),
        ("size", {"shortest_edge": 40}),
        ("size", {"longest_edge": 32}),
        ("crop_size", {"height": 32, "width": 24}),
        ("resample", 2),
        ("rescale_factor", 1.0),
        ("do_center_crop", False),
        ("do_resize", False),
        ("do_rescale", False),
        ("do_normalize", False),
        ("do_pad", True),
        ("default_to_square", True),
        ("use_square_size", True),
    ],
)
def test_other_pictures_than_are_made_here_are_refused(tmp_path, field, value):
    folder = write(tmp_path, "preprocessor_config.json", {field: value})
    with pytest.raises(
        WeightsError, match=f"^'{tmp_path}/preprocessor_config.json': {field}=.*: expected "
    ) as error:
        check_preprocessing(folder, image_size=32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mean", [0.5] * 3),
        ("resize_mode", "squash"),
        ("interpolation", "bilinear"),
        ("size", 64),
        ("crop", 1),
    ],
)
def test_so_are_those_of_open_clip(tmp_path, field, value):
    folder = write(tmp_path, "open_clip_config.json", {"preprocess_cfg": {field: value}})
    with pytest.raises(WeightsError, match=f"open_clip_config.json': {field}="):
        check_preprocessing(folder, image_size=32)


def test_so_are_those_of_the_file_that_transformers_5_writes(tmp_path):
    write(tmp_path, "processor_config.json", {"image_processor": {"image_mean": [0.5] * 3}})
    with pytest.raises(WeightsError, match="processor_config.json': image_mean="):
        check_preprocessing(str(tmp_path), image_size=32)


def test_a_reward_asks_before_its_weights_are_read(tmp_path):
    folder = shutil.copytree(resolve_path("assets/emoji/reward"), tmp_path / "reward")
    (folder / "model.safetensors").write_bytes(b"")
    write(folder, "preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]})
    with pytest.raises(WeightsError, match="image_mean=.0.5, 0.5, 0.5.: expected"):
        load_clipscore(str(folder))
