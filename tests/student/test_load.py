"""What `rats_jax.load` says of folders that other programs wrote; nothing here is drawn."""

import json
import shutil

import pytest

import rats_jax
from rats_jax.errors import ConfigError
from rats_jax.student.load import SETTINGS_FILE

FOREIGN = {
    "a network's": (
        {"model_type": "clip", "hidden_size": 64},
        "expected the config of a run, which has 'pretrained'",
    ),
    "nothing": ({}, "expected the config of a run, which has 'pretrained'"),
    "half a run's": ({"pretrained": "x"}, "expected the config of a run, which has 'student.num_steps'"),
    "a number": ({"pretrained": 5}, "pretrained=5: expected a path or name"),
    "a word": (
        {"pretrained": "x", "student": {"num_steps": "a"}},
        "student.num_steps='a': expected an integer",
    ),
    "a list": ([], "expected the config of a run as JSON"),
    "a section that is none": ({"gate": 5}, "expected the config of a run as JSON"),
}


@pytest.mark.parametrize("whose", FOREIGN)
def test_a_config_of_another_program_is_one_line(tmp_path, whose):
    content, message = FOREIGN[whose]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"^'.*config.json': {message}") as error:
        rats_jax.load(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_file_of_a_pipeline_is_no_pipeline(models):
    for file in ("model_index.json", "unet/diffusion_pytorch_model.safetensors"):
        with pytest.raises(ConfigError, match=f"^path='.*{file}': expected an existing folder, or a hub id"):
            rats_jax.load(str(models / "pipeline" / file))


def test_a_pipeline_with_a_config_beside_its_index_is_a_pipeline(models, tmp_path):
    folder = shutil.copytree(models / "pipeline", tmp_path / "pipeline")
    (folder / "config.json").write_text("{}")
    assert rats_jax.load(str(folder)).origin is None


SETTINGS = [
    ("sampler", 5, "'ddim' or 'euler' or 'dpmpp_2m'"),
    ("sampler", "zzz", "'ddim' or 'euler' or 'dpmpp_2m'"),
    ("num_steps", "4", "an integer >= 1"),
    ("num_steps", 2.5, "an integer >= 1"),
    ("num_steps", True, "an integer >= 1"),
    ("num_steps", 0, "an integer >= 1"),
    ("guidance_scale", None, "a number >= 1"),
    ("guidance_scale", 0.5, "a number >= 1"),
    ("guidance_scale", float("inf"), "a number >= 1"),
    ("config", [], "an object"),
]


@pytest.mark.parametrize(("field", "value", "expected"), SETTINGS)
def test_settings_of_an_export_are_refused_by_field(models, tmp_path, field, value, expected):
    folder = shutil.copytree(models / "pipeline", tmp_path / "pipeline")
    (folder / SETTINGS_FILE).write_text(json.dumps({"config": {}, field: value}))
    with pytest.raises(ConfigError, match=f"{SETTINGS_FILE}': {field}=.*: expected {expected}"):
        rats_jax.load(str(folder))


def test_the_size_in_the_settings_of_an_export_is_checked(models, tmp_path):
    folder = shutil.copytree(models / "pipeline", tmp_path / "pipeline")
    (folder / SETTINGS_FILE).write_text('{"config": {"height": "x"}}')
    with pytest.raises(ConfigError, match=f"{SETTINGS_FILE}': height='x': expected an integer >= 0"):
        rats_jax.load(str(folder))
