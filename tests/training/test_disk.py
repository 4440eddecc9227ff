"""A disk that fails at any write of a run: one line, and the same command goes on as if nothing had been."""

import errno
import os
from pathlib import Path

import chex
import jax
import orbax.checkpoint as ocp
import pytest
from etils import epath
from tensorboardX.event_file_writer import EventsWriter

from rats_jax.errors import ConfigError
from rats_jax.training import loop
from rats_jax.training.loop import train
from rats_jax.training.program import Program
from rats_jax.workdir import checkpoint
from rats_jax.workdir.metrics import read_metrics
from tests.tiny import tiny_config

SIZES = {"num_updates": 3, "samples__every": 2, "checkpoint__every": 1, "evaluation__num_prompts": 0}


@pytest.fixture(scope="module")
def program(models):
    return Program(tiny_config(models, reference="", **SIZES))


@pytest.fixture(scope="module")
def unbroken(program, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "unbroken"
    train(program, program.config, workdir)
    return workdir


def load_state(workdir, step):
    with checkpoint.open_manager(workdir / "checkpoints", keep=9, every=1) as manager:
        return manager.restore(step)


def full(path=None):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def fail_at(monkeypatch, owner, name, turn, error):
    """Let the write of a number, counted from 1, fail, and all after it: the disk stays full."""
    original, turns = getattr(owner, name), []

    def write(*inputs, **options):
        turns.append(1)
        if len(turns) >= turn:
            raise error
        return original(*inputs, **options)

    monkeypatch.setattr(owner, name, write)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "turn", "saved"),
    [
        (epath.Path, "write_bytes", 1, None),
        (Path, "write_bytes", 1, None),
        (Path, "write_bytes", 3, 3),
        (EventsWriter, "write_event", 1, None),
        (EventsWriter, "write_event", 40, 1),
        (ocp.CheckpointManager, "save", 1, None),
        (ocp.CheckpointManager, "save", 2, 1),
        (checkpoint, "write_checksums", 2, 1),
        (Path, "replace", 4, 1),
    ],
)
def test_it_says_so_and_goes_on(program, unbroken, tmp_path, monkeypatch, owner, name, turn, saved):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patched:
        fail_at(patched, owner, name, turn, full())
        with pytest.raises(ConfigError, match="^workdir='.*': expected .* writ") as error:
            train(program, program.config, workdir)
    line = str(error.value)
    assert "No space left on device" in line and "\n" not in line
    steps = checkpoint.list_steps(workdir / "checkpoints")
    assert (steps[-1] if steps else None) == saved
    if saved is not None:
        assert line.endswith(f"the same command goes on after update {saved}, which is saved")
    train(program, program.config, workdir)
    chex.assert_trees_all_equal(load_state(workdir, 3)["state"], load_state(unbroken, 3)["state"])
    assert [record["step"] for record in read_metrics(workdir)] == [1, 2, 3]
    sheets = [
        {file.name: file.read_bytes() for file in (w / "samples").iterdir()} for w in (workdir, unbroken)
    ]
    assert sheets[0] == sheets[1] and len(sheets[0]) == 3
    assert read_metrics(workdir / "samples.jsonl") == read_metrics(unbroken / "samples.jsonl")
    assert (workdir / "summary.json").exists() and (workdir / "curves.png").exists()
    assert not [file for file in workdir.rglob("*partial*")]


def test_a_disk_without_room_is_refused_before_anything_is_compiled(program, tmp_path, monkeypatch, capsys):
    def compiles(program):
        raise AssertionError("compiled")

    size = checkpoint.count_bytes(program.placed_state)
    monkeypatch.setattr(Program, "update", property(compiles))
    monkeypatch.setattr("rats_jax.files.free_bytes", lambda folder: size - 1)
    message = r"^workdir='.*': expected a disk with \d+\.\d MB free for a checkpoint, it has \d+\.\d MB$"
    with pytest.raises(ConfigError, match=message):
        train(program, program.config, tmp_path / "run")
    monkeypatch.setattr("rats_jax.files.free_bytes", lambda folder: size)
    monkeypatch.setattr(loop, "free_bytes", lambda folder: size)
    with pytest.raises(AssertionError, match="compiled"):
        train(program, program.config, tmp_path / "run")
    assert "are free, the checkpoints that will be kept take up to " in capsys.readouterr().err
    assert size == sum(leaf.nbytes for leaf in jax.tree.leaves(program.init_state()))
