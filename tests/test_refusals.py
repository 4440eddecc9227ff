"""Bad input that only loading tells: one line, before anything is compiled or written."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from rats_jax.errors import ConfigError
from rats_jax.parallel.mesh import make_mesh
from rats_jax.training.loop import train_and_evaluate
from rats_jax.training.models import open_models
from rats_jax.training.setup import make_experiment
from tests.tiny import PROMPTS, change_json, mesh_sizes, tiny_config


def test_a_workdir_with_another_config_is_refused_and_left_alone(models, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(models).to_dict()))
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ConfigError, match=r"another config .*gate\.temperature: .* -> 9"):
        train_and_evaluate(tiny_config(models, gate__temperature=9.0), tmp_path)
    assert (tmp_path / "config.json").read_text() == before
    assert [f.name for f in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"student__num_steps": 5}, r"student\.num_steps=5: expected at most teacher\.num_steps=3"),
        ({"teacher__timestep_spacing": "leading"}, "horizon outside the grid: student sigma"),
        ({"prompts": "nowhere.txt"}, "prompts='nowhere.txt'"),
        ({"pretrained": "nowhere"}, "'nowhere' is no file or folder"),
        ({"mesh__data": 4}, r"mesh\.data=4.*number of devices, 8"),
        ({"batch_size": 12}, "batch_size=12: expected a multiple of 8"),
        ({"heldout_reward": "nobody"}, "heldout_reward='nobody': expected .* \\('heldout'\\)"),
        ({"monitor__heldout__path": "nowhere"}, "monitor.heldout: 'nowhere' is no file"),
        ({"gate__reward": "beauty"}, r"gate\.reward='beauty': expected"),
        ({"student__num_steps": 0}, r"student\.num_steps=0"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_compiled_or_written(models, tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        train_and_evaluate(tiny_config(models, **overrides), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_unknown_reward_kind_is_refused(models, tmp_path):
    config = tiny_config(models)
    config.rewards.pickscore_emoji.kind = "beauty"
    with pytest.raises(ConfigError, match="kind='beauty': expected one of aesthetic, clipscore, "):
        train_and_evaluate(config, tmp_path / "run")


def test_heldout_prompts_that_are_trained_on_are_refused(models, tmp_path):
    (tmp_path / "other.txt").write_text(f"a prompt of its own\n{PROMPTS[1]}\n")
    config = tiny_config(models, heldout_prompts=str(tmp_path / "other.txt"))
    expected = rf"expected prompts that are not in prompts='.*'; 1 are, e.g. \['{PROMPTS[1]}'\]"
    with pytest.raises(ConfigError, match=f"^heldout_prompts='.*other.txt': {expected}$"):
        train_and_evaluate(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("other.txt", " ", "other.txt': expected at least one prompt"),
        ("other.jsonl", '{"prompt": 3}', "other.jsonl:1': expected a JSON object with a text"),
        ("other.xlsx", "PK", "other.xlsx': expected text with one prompt per line, .*xlsx is not read"),
    ],
)
def test_errors_about_heldout_prompts_begin_with_their_field(models, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    config = tiny_config(models, heldout_prompts=str(tmp_path / name))
    with pytest.raises(ConfigError, match=f"^heldout_prompts='.*{message}"):
        train_and_evaluate(config, tmp_path / "run")


def test_empty_prompts_are_refused(models, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="at least one prompt"):
        train_and_evaluate(tiny_config(models, prompts=str(tmp_path / "empty.txt")), tmp_path / "run")


def change_scheduler(models, folder, **fields):
    """Copy the tiny pipeline with other fields of its scheduler, whose class the index names, too."""
    shutil.copytree(models / "pipeline", folder)
    file, index = folder / "scheduler" / "scheduler_config.json", folder / "model_index.json"
    change_json(file, **fields)
    if "_class_name" in fields:
        change_json(index, scheduler=["diffusers", fields["_class_name"]])
    return str(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "velocity"}, "prediction_type"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "epsilon"),
        ({"beta_schedule": "spiral"}, "beta_schedule"),
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused(models, tmp_path, change, message):
    pretrained = change_scheduler(models, tmp_path / "pipeline", **change)
    with pytest.raises(ConfigError, match=message):
        train_and_evaluate(tiny_config(models, pretrained=pretrained), tmp_path / "run")


@pytest.mark.parametrize("solver", ["DPMSolverMultistep", "DEISMultistep", "UniPCMultistep", "LCM", "TCD"])
def test_timesteps_that_no_export_has_are_refused_before_the_training(models, tmp_path, solver):
    fields = {"_class_name": f"{solver}Scheduler", "timestep_spacing": "linspace"}
    pretrained = change_scheduler(models, tmp_path / "pipeline", **fields)
    with pytest.raises(ConfigError) as error:
        train_and_evaluate(tiny_config(models, pretrained=pretrained), tmp_path / "run")
    expected = r"student\.timestep_spacing='': expected 'leading', 'linspace' or 'trailing': [^\n]+"
    assert re.fullmatch(expected, str(error.value)) and str(error.value).endswith(repr(pretrained))
    assert not (tmp_path / "run").exists()
    chosen = {"student__timestep_spacing": "trailing", "teacher__timestep_spacing": "trailing"}
    config = tiny_config(models, pretrained=pretrained, **chosen)
    make_experiment(config, open_models(config), make_mesh(mesh_sizes(), jax.devices()[:1]))


@pytest.mark.parametrize("solver", ["EulerDiscrete", "PNDM", "DPMSolverMultistep"])
def test_timesteps_that_ddim_has_need_no_choice(models, tmp_path, solver):
    pretrained = change_scheduler(models, tmp_path / "pipeline", _class_name=f"{solver}Scheduler")
    config = tiny_config(models, pretrained=pretrained)
    make_experiment(config, open_models(config), make_mesh(mesh_sizes(), jax.devices()[:1]))


def test_a_reference_without_a_prompts_picture_is_refused(models, tmp_path):
    np.savez(tmp_path / "few.npz", images=np.zeros((1, 32, 32, 3), np.uint8), captions=np.array(PROMPTS[:1]))
    with pytest.raises(ConfigError, match=f"no picture for {len(PROMPTS) - 1} prompts"):
        train_and_evaluate(tiny_config(models, reference=str(tmp_path / "few.npz")), tmp_path / "run")
