"""Damaged checkpoints, full disks and small machines: what is whole is used, and what is not is said."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.errors import ConfigError
from rats_jax.workdir import checkpoint
from rats_jax.workdir.checkpoint import (
    _is_news,
    count_bytes,
    list_steps,
    open_manager,
    restore,
    restore_student,
    save,
    save_now,
    save_ranked,
)
from rats_jax.workdir.checksums import FILE, find_damage


def write_steps(folder, *steps):
    """Checkpoints of {"student": {"x": step, step, step}}."""
    with open_manager(folder, keep=9, every=1) as manager:
        for step in steps:
            save_now(manager, step, {"student": {"x": jnp.full(3, step, jnp.float32)}}, {"at": step})
    return {"student": {"x": jax.ShapeDtypeStruct((3,), jnp.float32)}}


def files_of(folder, step):
    data = [file for file in (folder / str(step) / "state").rglob("*") if file.is_file()]
    return sorted(data, key=lambda file: file.stat().st_size)


def cut(folder, step):
    file = files_of(folder, step)[-1]
    file.write_bytes(file.read_bytes()[:-7])


def zero(folder, step):
    file = files_of(folder, step)[-1]
    file.write_bytes(b"\0" * 5 + file.read_bytes()[5:])


def remove(folder, step):
    files_of(folder, step)[-1].unlink()


def empty(folder, step):
    shutil.rmtree(folder / str(step) / "state")


def forget(part):
    """Give damage to a checkpoint of before, which has no checksums: a part of it emptied, or gone."""

    def damage(folder, step):
        (folder / str(step) / FILE).unlink()
        path = folder / str(step) / part
        shutil.rmtree(path) if path.is_dir() else path.write_bytes(b"")

    return damage


@pytest.mark.parametrize("part", ["state", "prompts", "state/_METADATA", "state/manifest.ocdbt", "state/d"])
def test_a_checkpoint_of_before_that_lacks_a_part_is_stepped_over(tmp_path, part):
    folder, said = tmp_path / "checkpoints", []
    like = write_steps(folder, 2, 4)
    forget(part)(folder, 4)
    with open_manager(folder, keep=9, every=1) as manager:
        state, position = restore(manager, like, say=said.append)
    assert np.asarray(state["student"]["x"]).tolist() == [2, 2, 2] and position == {"at": 2}
    assert len(said) == 1 and said[0].startswith("the checkpoint of update 4 is damaged (")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rank": "high"}', None])
def test_a_rank_that_is_damaged_is_no_end_of_a_run(tmp_path, content):
    folder, said = tmp_path / "checkpoints", []
    like = write_steps(folder, 2, 4)
    file = folder / "4" / "metrics" / "metrics"
    if content is None:
        shutil.rmtree(file.parent)
    else:
        file.write_text(content)
    with open_manager(folder, keep=9, every=1, say=said.append) as manager:
        state, position = restore(manager, like, say=said.append)
    assert np.asarray(state["student"]["x"]).tolist() == [position["at"]] * 3 == [2, 2, 2]
    assert len(said) == 1 and "the checkpoint of update 4 is damaged (metrics/" in said[0]


def add_empty_step(folder):
    (folder / "5").mkdir()


def add_copies(folder):
    for name in ("4 (copy)", "4_old", "backup", "00000004", "5.orbax-checkpoint-tmp-1"):
        shutil.copytree(folder / "4", folder / name)


def add_companions(folder):
    for name in (".ipynb_checkpoints", "lost+found"):
        (folder / name).mkdir()
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "latest").symlink_to("4")


@pytest.mark.parametrize("add", [add_empty_step, add_copies, add_companions])
def test_what_else_lies_beside_checkpoints_is_none(tmp_path, add):
    folder = tmp_path / "checkpoints"
    like = write_steps(folder, 2, 4)
    add(folder)
    step, student = restore_student(folder, like["student"], step=None)
    assert step == 4 and np.asarray(student["x"]).tolist() == [4, 4, 4]
    with open_manager(folder, keep=9, every=1) as manager:
        state, position = restore(manager, like)
        assert np.asarray(state["student"]["x"]).tolist() == [4, 4, 4] and position == {"at": 4}
        save_now(manager, 6, {"student": {"x": jnp.full(3, 6.0)}}, {"at": 6})
    assert restore_student(folder, like["student"], step=None)[0] == 6


@pytest.mark.parametrize("damage", [cut, zero, remove, empty, forget("state")])
def test_the_newest_whole_checkpoint_is_used_and_a_damaged_one_moved_aside(tmp_path, damage):
    folder, said = tmp_path / "checkpoints", []
    like = write_steps(folder, 2, 4)
    before = {file.name for file in (folder / "4").iterdir()}
    damage(folder, 4)
    step, student = restore_student(folder, like["student"], step=None)
    assert step == 2 and np.asarray(student["x"]).tolist() == [2, 2, 2]  # reading moves nothing
    assert (folder / "4").exists()
    with pytest.raises(ConfigError, match="none of those of updates 4 can be read; 4: "):
        restore_student(folder, like["student"], step=4)
    with open_manager(folder, keep=9, every=1) as manager:
        state, position = restore(manager, like, say=said.append)
        assert np.asarray(state["student"]["x"]).tolist() == [2, 2, 2] and position == {"at": 2}
        save_now(manager, 4, {"student": {"x": jnp.full(3, 5.0)}}, {"at": 5})
    (line,) = said
    assert line.startswith("the checkpoint of update 4 is damaged (") and "\n" not in line
    assert line.endswith(f"lies in {tmp_path / 'checkpoints_damaged' / '4'} now")
    left = {file.name for file in (tmp_path / "checkpoints_damaged" / "4").iterdir()}
    assert left <= before and left >= before - {"state", FILE}
    with open_manager(folder, keep=9, every=1) as manager:
        state, position = restore(manager, like, say=said.append)
        assert np.asarray(state["student"]["x"]).tolist() == [5, 5, 5] and position == {"at": 5}
    assert len(said) == 1


def test_where_no_checkpoint_is_whole_nothing_is_moved(tmp_path):
    folder = tmp_path / "checkpoints"
    like = write_steps(folder, 2, 4)
    cut(folder, 2)
    zero(folder, 4)
    message = "expected a whole checkpoint, none of those of updates 2, 4 can be read; 4: .* is not as it was"
    with open_manager(folder, keep=9, every=1) as manager, pytest.raises(ConfigError, match=message):
        restore(manager, like)
    with pytest.raises(ConfigError, match=message):
        restore_student(folder, like["student"], step=None)
    assert (folder / "2").exists() and (folder / "4").exists()


@pytest.mark.parametrize(
    "error", [MemoryError("too large"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")]
)
def test_a_machine_that_is_too_small_is_no_damage_of_a_checkpoint(tmp_path, monkeypatch, error):
    folder = tmp_path / "checkpoints"
    like = write_steps(folder, 2, 4)
    with open_manager(folder, keep=9, every=1) as manager:

        def refuse(step, args):
            raise error

        monkeypatch.setattr(manager, "restore", refuse)
        with pytest.raises(type(error)):
            restore(manager, like)
    assert list_steps(folder) == [2, 4]


def test_a_disk_without_room_for_a_checkpoint_is_not_filled(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    like = write_steps(folder, 2)
    assert list_steps(folder) == [2] and count_bytes(like) == 12
    with open_manager(folder, keep=9, every=2) as manager:
        monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 11)
        assert not save(manager, 3, like, {})  # not due
        for write in (save_now, lambda *inputs: save_ranked(*inputs, 1.0), save):
            with pytest.raises(OSError, match="No space left on device") as error:
                write(manager, 4, {"student": {"x": jnp.ones(3)}}, {})
            assert error.value.filename == str(folder)
        assert list_steps(folder) == [2] and [file.name for file in folder.iterdir()] == ["2"]
        monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 12)
        save_now(manager, 4, {"student": {"x": jnp.ones(3)}}, {})
    assert list_steps(folder) == [2, 4]


def test_what_orbax_logs_of_a_disk_that_fails_is_left_out():
    tensorstore = ValueError("RESOURCE_EXHAUSTED: .../checkpoints/4.orbax-checkpoint-tmp/state: ...")
    for error, shown in ((OSError(28, "full"), False), (tensorstore, False), (ValueError("a bug"), True)):
        record = logging.LogRecord("absl", logging.ERROR, "", 1, "failed", (), (type(error), error, None))
        assert _is_news(record) == shown
    assert _is_news(logging.LogRecord("absl", logging.ERROR, "", 1, "failed", (), None))


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 3}', '{"a": [1]}', "[" * 100_000, "{}\0"])
def test_damaged_checksums_are_damage(tmp_path, content):
    folder = tmp_path / "checkpoints"
    write_steps(folder, 2)
    assert find_damage(folder / "2") == ""
    (folder / "2" / FILE).write_text(content)
    assert find_damage(folder / "2") == f"{FILE} is damaged"
