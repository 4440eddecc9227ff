"""Checkpoints: bit for bit, in order, and never half of one."""

import logging
import subprocess
import sys
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rats_jax.errors import ConfigError
from rats_jax.parallel import placement
from rats_jax.parallel.mesh import make_mesh
from rats_jax.parallel.placement import param_sharding
from rats_jax.training.optimizer import make_optimizer
from rats_jax.types import Moments, TrainState
from rats_jax.workdir.checkpoint import (
    best_step,
    open_manager,
    restore,
    restore_student,
    save,
    save_now,
    save_ranked,
)
from tests.tiny import mesh_sizes


class Run(NamedTuple):
    state: TrainState
    abstract: Any


@pytest.fixture(scope="module")
def run() -> Run:
    """A state with awkward numbers, split over the devices."""
    optimizer = make_optimizer(
        learning_rate=1e-3,
        warmup_updates=2,
        decay_updates=0,
        clip_norm=1.0,
        b1=0.9,
        b2=0.99,
        weight_decay=0.0,
    )

    def init(key):
        student = {
            "kernel": jax.random.normal(key, (512, 256)),
            "bias": jnp.array([0.1, -0.0, 1e-40, jnp.inf]),
        }
        gap = Moments(jnp.float32(0.1), jnp.float32(0.2), jnp.float32(0.3))
        teacher = jax.tree.map(lambda x: x / 3, student)
        return TrainState(jnp.int32(0), student, teacher, optimizer.init(student), gap, {"first": gap})

    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = param_sharding(make_mesh(mesh_sizes(data=2, fsdp=4)), shapes, [("", "largest")])
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    return Run(jax.jit(init, out_shardings=shardings)(jax.random.key(0)), abstract)


def bits(tree):
    return jax.tree.map(lambda x: np.asarray(x).view(np.uint32), tree)


def test_the_checkpoint_of_the_highest_rank_stays_besides_the_newest(run, tmp_path):
    with open_manager(tmp_path, keep=2, every=2) as manager:
        assert best_step(manager) is None
        for step, rank in ((1, 3.0), (2, None), (3, 1.0), (4, None), (5, 2.0), (6, None)):
            if rank is None:
                assert save(manager, step, run.state, {})
                assert step > 2 or best_step(manager) == 1
            else:
                save_ranked(manager, step, run.state, {}, rank)  # due or not
        manager.wait_until_finished()
        assert list(manager.all_steps()) == [1, 5, 6]
    with open_manager(tmp_path, keep=2, every=2) as manager:
        assert (best_step(manager), manager.latest_step()) == (1, 6)


def test_restored_is_bit_for_bit_what_was_saved_and_lies_where_it_lay(run, tmp_path):
    position = {"iterator": {"next_index": 7}, "prompts": "abc"}
    with open_manager(tmp_path, keep=2, every=1) as manager:
        assert save(manager, 3, run.state, position)
    with open_manager(tmp_path, keep=2, every=1) as manager:
        restored = restore(manager, run.abstract)
    assert restored is not None
    state, prompt_state = restored
    assert isinstance(state, TrainState) and isinstance(state.gap, Moments) and prompt_state == position
    chex.assert_trees_all_equal_structs(state, run.state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, run.state)
    chex.assert_trees_all_equal(bits(state), bits(run.state))
    assert state.student["kernel"].sharding == run.state.student["kernel"].sharding
    assert len(state.student["kernel"].sharding.device_set) == 8
    assert not state.student["kernel"].sharding.is_fully_replicated


def test_an_average_is_restored_and_read_in_place_of_the_student(run, tmp_path):
    state, abstract = (s.replace(average=s.teacher) for s in (run.state, run.abstract))
    with open_manager(tmp_path, keep=2, every=1) as manager:
        assert save(manager, 3, state, {})
    with open_manager(tmp_path, keep=2, every=1) as manager:
        restored, _ = restore(manager, abstract)
    chex.assert_trees_all_equal_structs(restored, state)
    chex.assert_trees_all_equal(bits(restored), bits(state))
    _, average = restore_student(tmp_path, run.abstract.student, step=None, averaged=True)
    chex.assert_trees_all_equal(bits(average), bits(state.average))


def test_a_state_without_an_average_is_stored_as_before_there_were_any(run, tmp_path):
    with open_manager(tmp_path, keep=2, every=1) as manager:
        assert save(manager, 3, run.state, {})
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        stored = checkpointer.metadata(tmp_path / "3" / "state").item_metadata.tree
    assert set(stored) == {"step", "student", "teacher", "opt_state", "gap", "rewards"}


def test_nothing_to_restore(run, tmp_path):
    with open_manager(tmp_path / "new", keep=1, every=1) as manager:
        assert restore(manager, run.abstract) is None


def test_the_student_alone_is_read_whole_from_any_layout(run, tmp_path):
    with open_manager(tmp_path / "checkpoints", keep=9, every=1) as manager:
        for step in (3, 12):
            save_now(manager, step, run.state, {})
    before = sorted(path.name for path in (tmp_path / "checkpoints").rglob("*"))
    for asked, expected in ((None, 12), (3, 3)):
        step, student = restore_student(tmp_path / "checkpoints", run.abstract.student, step=asked)
        assert step == expected
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(student))
        chex.assert_trees_all_equal(bits(student), bits(run.state.student))
    assert sorted(path.name for path in (tmp_path / "checkpoints").rglob("*")) == before
    with pytest.raises(ConfigError, match="step=4: expected one of the checkpoints 3, 12"):
        restore_student(tmp_path / "checkpoints", run.abstract.student, step=4)
    with pytest.raises(ConfigError, match=f"workdir='{tmp_path}/none': expected a run with checkpoints"):
        restore_student(tmp_path / "none" / "checkpoints", run.abstract.student, step=None)


def test_saves_when_due_keeps_the_newest_and_survives_donation(tmp_path):
    step_fn = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = {"x": jnp.zeros((500, 1000), jnp.int32)}
    with open_manager(tmp_path, keep=2, every=3) as manager:
        for step in range(1, 11):
            state = step_fn(state)
            assert save(manager, step, state, {"step": step}) == (step % 3 == 0)
        manager.wait_until_finished()
        assert list(manager.all_steps()) == [6, 9]
        restored = restore(manager, jax.eval_shape(lambda: state))
    assert restored is not None
    np.testing.assert_array_equal(restored[0]["x"], 9)
    assert restored[1] == {"step": 9}


def test_save_now_saves_what_is_not_due_and_leaves_what_is_there(tmp_path):
    with open_manager(tmp_path, keep=5, every=4) as manager:
        save(manager, 4, {"x": jnp.zeros(3)}, {"n": 4})
        save_now(manager, 4, {"x": jnp.ones(3)}, {"n": 0})
        save_now(manager, 5, {"x": jnp.ones(3)}, {"n": 5})
        assert list(manager.all_steps()) == [4, 5]
        restored = restore(manager, {"x": jax.ShapeDtypeStruct((3,), jnp.float32)})
    assert restored is not None and restored[1] == {"n": 5}


def test_an_interrupted_save_is_not_picked_up_and_is_removed(tmp_path):
    with open_manager(tmp_path, keep=5, every=1) as manager:
        save(manager, 1, {"x": jnp.zeros(3)}, {"n": 1})
        manager.wait_until_finished()
        temporary = tmp_path / "7.orbax-checkpoint-tmp"
        (tmp_path / "1").rename(temporary)
    with open_manager(tmp_path, keep=5, every=1) as manager:
        assert manager.latest_step() is None
        assert restore(manager, {"x": jax.ShapeDtypeStruct((3,), jnp.float32)}) is None
        save_now(manager, 2, {"x": jnp.ones(3)}, {"n": 2})
        restored = restore(manager, {"x": jax.ShapeDtypeStruct((3,), jnp.float32)})
    assert restored is not None and restored[1] == {"n": 2}
    assert not temporary.exists()


KILLED = """
import os, sys, jax.numpy as jnp
from rats_jax.workdir.checkpoint import open_manager, save
with open_manager(sys.argv[1], keep=3, every=1) as manager:
    save(manager, 1, {"x": jnp.full(1000, 1.0)}, {"n": 1})
    manager.wait_until_finished()
    save(manager, 2, {"x": jnp.full((4000, 1000), 2.0)}, {"n": 2})
    os._exit(9)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_a_complete_checkpoint(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=120)
    assert killed.returncode == 9
    with open_manager(tmp_path, keep=3, every=1) as manager:
        step = manager.latest_step()
        assert step in (1, 2)
        shape = (1000,) if step == 1 else (4000, 1000)
        restored = restore(manager, {"x": jax.ShapeDtypeStruct(shape, jnp.float32)})
    assert restored is not None and restored[1] == {"n": step}
    np.testing.assert_array_equal(restored[0]["x"], step)


FAILS = """
import os, sys, time, jax.numpy as jnp
from rats_jax.workdir.checkpoint import open_manager, save_now


def fail(event, arguments):
    if event == sys.argv[2] and str(arguments[0]).endswith(sys.argv[3]):
        raise OSError(28, os.strerror(28))
    if event == "open" and str(arguments[0]).endswith("_METADATA"):
        time.sleep(1)  # what else is written of the checkpoint takes longer


sys.addaudithook(fail)
with open_manager(sys.argv[1], keep=3, every=1) as manager:
    save_now(manager, 1, {"x": jnp.full(1000, 1.0)}, {"n": 1})
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", [("open", "metrics/metrics"), ("os.mkdir", "1.orbax-checkpoint-tmp")])
def test_a_save_that_fails_leaves_nothing_that_ends_after_the_process(tmp_path, what):
    command = [sys.executable, "-c", FAILS, str(tmp_path), *what]
    # Who waits for a folder that is never made waits for ten minutes.
    failed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert failed.returncode == 1 and failed.stderr.count("Traceback") == 1
    assert "No space left" in failed.stderr and "shutdown" not in failed.stderr


def test_saving_what_eight_devices_hold_compiles_nothing(tmp_path, caplog):
    replicated = placement.replicated(make_mesh(mesh_sizes(data=8)))
    arrays = [np.full((16, 31 + i), i, np.float32) for i in range(3)]
    state = jax.device_put(arrays, replicated)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        with open_manager(tmp_path, keep=1, every=1) as manager:
            save(manager, 1, state, {})
        assert "Compiling" not in caplog.text
        jax.jit(lambda x: x + 1)(state[0])
        assert "Compiling" in caplog.text
    with open_manager(tmp_path, keep=1, every=1) as manager:
        chex.assert_trees_all_equal(restore(manager, state)[0], arrays)
