"""Targets of a teacher in a folder: what is written is read, what does not belong to the run is refused."""

from pathlib import Path

import jax
import numpy as np
import pytest

from rats_jax.config.flags import load_config
from rats_jax.errors import ConfigError
from rats_jax.parallel import placement, processes
from rats_jax.parallel.mesh import make_mesh
from rats_jax.training.teacher import TargetStore
from rats_jax.types import Targets
from tests.tiny import mesh_sizes

PROMPTS = ["cat", "dog"]
ROWS = np.array([2, 3])
CONFIG = load_config(Path(__file__).parents[2] / "configs" / "emoji_cpu.py")


def targets(seed=0):
    rng = np.random.default_rng(seed)
    scores = {name: rng.normal(size=2).astype(np.float32) for name in ("first", "second/part")}
    return Targets(rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32), scores)


def changed(field, value):
    config = CONFIG.copy_and_resolve_references()
    config.update_from_flattened_dict({field: value})
    return config


def test_what_was_written_is_read_by_another_run(tmp_path):
    folder = str(tmp_path / "deep" / "targets")
    store = TargetStore(folder, CONFIG, PROMPTS, ROWS)
    assert store.read(7) is None
    store.write(7, targets())
    # What a run does with its targets is its own affair.
    found = TargetStore(folder, changed("gate.temperature", 9.0), PROMPTS, ROWS).read(7)
    jax.tree.map(np.testing.assert_array_equal, found, targets())
    assert store.read(8) is None
    assert sorted(path.suffix for path in (tmp_path / "deep" / "targets").iterdir()) == [
        ".json",
        ".safetensors",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 3),
        ("batch_size", 16),
        ("pretrained", "elsewhere"),
        ("teacher.num_steps", 25),
        ("teacher.guidance_scale", 3.0),
        ("student.num_steps", 5),
        ("horizon.interpolation", "nearest"),
        ("height", 32),
        ("max_sequence_length", 8),
        ("flow_shift", 5.0),
        ("negative_prompt", "blurred"),
        ("reward_frames", 1),
        ("rewards.compressibility.kind", "aesthetic"),
    ],
)
def test_targets_of_another_teacher_are_refused(tmp_path, field, value):
    folder = str(tmp_path / "targets")
    TargetStore(folder, CONFIG, PROMPTS, ROWS)
    with pytest.raises(ConfigError) as caught:
        TargetStore(folder, changed(field, value), PROMPTS, ROWS)
    assert f"expected targets with {field}={value!r}" in str(caught.value)


def test_targets_with_scores_of_a_file_that_was_edited_since_are_refused(tmp_path):
    file, folder = tmp_path / "mine.py", str(tmp_path / "targets")
    file.write_text("first")
    config = CONFIG.copy_and_resolve_references()
    config.rewards.mine = {"kind": f"{file}:red", "path": "", "weight": 1.0}
    TargetStore(folder, config, PROMPTS, ROWS).write(7, targets())
    assert TargetStore(folder, config, PROMPTS, ROWS).read(7) is not None
    file.write_text("second")
    with pytest.raises(ConfigError, match="rewards.mine.file"):
        TargetStore(folder, config, PROMPTS, ROWS)


def test_targets_of_other_prompts_are_refused(tmp_path):
    TargetStore(str(tmp_path), CONFIG, PROMPTS, ROWS)
    with pytest.raises(ConfigError, match="expected targets with prompts="):
        TargetStore(str(tmp_path), CONFIG, ["cat", "cow"], ROWS)


@pytest.mark.parametrize("content", ["{", "[1]", "3", "\0" * 9, "[" * 100_000])
def test_damaged_settings_of_targets_are_named(tmp_path, content):
    TargetStore(str(tmp_path), CONFIG, PROMPTS, ROWS)
    (tmp_path / "targets.json").write_text(content)
    with pytest.raises(ConfigError, match="^teacher.targets='.*, targets.json is damaged") as error:
        TargetStore(str(tmp_path), CONFIG, PROMPTS, ROWS)
    assert "\n" not in str(error.value)


def test_another_mesh_that_gives_processes_other_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for others, message in (([4, 5], None), ([4, 5], None), ([6, 7], "rows of processes=")):
        held = np.isin(np.arange(CONFIG.batch_size), others)
        monkeypatch.setattr(processes, "gather", lambda own, held=held: np.stack([own, held]))
        if message is None:
            TargetStore(str(tmp_path), CONFIG, PROMPTS, ROWS)
        else:
            with pytest.raises(ConfigError, match=message):
                TargetStore(str(tmp_path), CONFIG, PROMPTS, ROWS)


@pytest.mark.parametrize(
    "damage", ["file in place", "settings", "targets", "zeros", "a folder", "other arrays"]
)
def test_what_cannot_be_read_is_one_line(tmp_path, damage):
    folder = tmp_path / "targets"
    if damage == "file in place":
        folder.write_text("")
    else:
        store = TargetStore(str(folder), CONFIG, PROMPTS, ROWS)
        store.write(0, targets())
    if damage == "settings":
        (folder / "targets.json").write_text("{")
    if damage in ("file in place", "settings"):
        with pytest.raises(ConfigError, match="^teacher.targets='.*': expected a folder for targets"):
            TargetStore(str(folder), CONFIG, PROMPTS, ROWS)
        return
    (file,) = folder.glob("*.safetensors")
    if damage == "targets":
        file.write_bytes(file.read_bytes()[:40])
    elif damage == "zeros":
        content = file.read_bytes()
        file.write_bytes(content[:-8] + bytes(8))
    elif damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        from safetensors.numpy import save_file

        save_file({"else": np.zeros(2)}, file)
    with pytest.raises(ConfigError, match="^teacher.targets: '.*' is no file of targets"):
        store.read(0)


def test_rows_come_back_from_the_devices_in_their_order():
    mesh = make_mesh(mesh_sizes(data=2, fsdp=2, tensor=2))
    layout = placement.batch_sharding(mesh)
    rows = placement.local_rows(layout, 8)
    values = {"a": np.arange(8.0), "b": np.arange(16.0).reshape(8, 2)}
    placed = placement.place_rows(values, rows, layout, 8)
    jax.tree.map(np.testing.assert_array_equal, placement.read_rows(placed, rows), values)
