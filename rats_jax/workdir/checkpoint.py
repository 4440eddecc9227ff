"""Checkpoints: the TrainState and the position among the prompts, through Orbax.

The frozen weights are not in them, and no key either: keys are folded from the seed and the step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import logging as standard_logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from rats_jax.errors import ConfigError
from rats_jax.files import free_bytes
from rats_jax.paths import is_remote
from rats_jax.texts import parse_object
from rats_jax.workdir.checksums import find_damage, write_checksums

_SHOWN = 200
# Orbax writes into this file when it gives the checkpoint its name.
_TIMES = "_CHECKPOINT_METADATA"

# Below every rank: a checkpoint of which nothing was measured is the best of none.
_UNRANKED = float("-inf")


@contextmanager
def open_manager(
    directory: epath.PathLike, *, keep: int, every: int, say: Callable[[str], None] = logging.warning
) -> Iterator[ocp.CheckpointManager]:
    """Open the checkpoints of a run, made if there are none; what an interrupted save left is removed.

    One whose rank cannot be read is moved aside: Orbax reads all ranks at once, and would open none.

    Args:
        directory: folder of the checkpoints.
        keep: newest checkpoints that stay, >= 1; the one of the highest rank stays besides.
        every: `save` writes the steps that this divides, >= 1.
        say: gets a line for each checkpoint that is damaged.

    Yields:
        The manager; on leaving, the last save finishes, and so does what is left of one that failed.
    """
    managers, folder = ocp.checkpoint_managers, epath.Path(directory).expanduser().absolute()
    for logger in ("absl", "asyncio"):
        standard_logging.getLogger(logger).addFilter(_is_news)
    if jax.process_index() == 0:
        for step in list_steps(folder):
            if damage := _damage_of_rank(folder / str(step)):
                _tell(say, step, damage, _move_aside(folder, step))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the checkpoints can be opened")
    best = managers.BestN(get_metric_fn=_rank, n=1)
    options = ocp.CheckpointManagerOptions(
        best_fn=_rank,  # without it Orbax does not write metrics
        preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
        save_decision_policy=managers.FixedIntervalPolicy(every),
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(
            # Who waits for a folder that Orbax cannot make waits ten minutes, and ends with a traceback.
            create_directories_asynchronously=False,
            post_finalization_callback=functools.partial(_seal, folder),
        ),
    )
    handlers = {"state": _state_handler(), "prompts": ocp.JsonCheckpointHandler()}
    try:
        with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager:
            yield manager
    finally:
        # Where one part of a checkpoint fails, which the manager raises, Orbax leaves those that write the
        # others: they end with a traceback if the process does first, and may raise when they are waited for.
        for thread in threading.enumerate():
            if type(thread).__module__.startswith("orbax.") and not thread.daemon:
                with contextlib.suppress(Exception):
                    thread.join()


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    """Make what writes and reads a state.

    Orbax has each device write its part of an array that several hold, and compiles a slice for each of them:
    5,600 programs for 700 weights on eight devices. It pays where other processes write, too.
    """
    arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=jax.process_count() > 1)
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _is_news(record: standard_logging.LogRecord) -> bool:
    """Leave out what Orbax logs, with tracebacks, of a disk that fails: it raises the same."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, OSError) and "orbax-checkpoint-tmp" not in str(error)


def _seal(folder: epath.Path) -> None:
    """Write checksums into the checkpoint that is complete but does not have its name yet."""
    if jax.process_index() == 0 and not is_remote(str(folder)):
        for unnamed in Path(folder).glob("*.orbax-checkpoint-tmp*"):
            write_checksums(unnamed, skip=(_TIMES,))


def save(manager: ocp.CheckpointManager, step: int, state: Any, prompt_state: dict[str, Any]) -> bool:
    """Save in the background if the step is due; call it after every update.

    Args:
        manager: from `open_manager`.
        step: updates made.
        state: pytree of arrays; it may be donated as soon as this returns.
        prompt_state: what the prompt iterator's `get_state` gives after the step's batch was taken.

    Returns:
        Whether the step is being saved.
    """
    return _save(manager, step, state, prompt_state, rank=_UNRANKED, force=False)


def save_ranked(
    manager: ocp.CheckpointManager, step: int, state: Any, prompt_state: dict[str, Any], rank: float
) -> None:
    """Save the step, due or not, with the rank by which the best is found (nan is none); see `save`."""
    rank = _UNRANKED if math.isnan(rank) else rank
    _save(manager, step, state, prompt_state, rank=rank, force=True)


def best_step(manager: ocp.CheckpointManager) -> int | None:
    """Find the checkpoint of the highest rank, the newest of several; None if none has one."""
    manager.wait_until_finished()
    ranks = {step: _rank(manager.metrics(step)) for step in manager.all_steps()}
    ranked = {step: rank for step, rank in ranks.items() if rank > _UNRANKED}
    return max(ranked, key=lambda step: (ranked[step], step)) if ranked else None


def save_now(manager: ocp.CheckpointManager, step: int, state: Any, prompt_state: dict[str, Any]) -> None:
    """Save the step, due or not, unless it is there already, and wait until it is on disk; see `save`."""
    manager.wait_until_finished()
    if step not in manager.all_steps():
        _save(manager, step, state, prompt_state, rank=_UNRANKED, force=True)
        manager.wait_until_finished()


def restore(
    manager: ocp.CheckpointManager, abstract_state: Any, *, say: Callable[[str], None] = logging.warning
) -> tuple[Any, dict[str, Any]] | None:
    """Restore the newest whole checkpoint; newer ones that are damaged are moved aside.

    Args:
        manager: from `open_manager`.
        abstract_state: the state's pytree of jax.ShapeDtypeStruct, whose shardings say where each leaf goes.
        say: gets a line for each checkpoint that is damaged.

    Returns:
        (state, prompt_state), bit for bit what was saved, or None if there is no checkpoint.

    Raises:
        ConfigError: there are some, and none can be read.
    """
    wanted = _without_empty(abstract_state)
    placed = ocp.checkpoint_utils.construct_restore_args(wanted)
    arguments = ocp.args.Composite(
        state=ocp.args.PyTreeRestore(wanted, restore_args=placed), prompts=ocp.args.JsonRestore()
    )
    folder, steps = epath.Path(manager.directory), manager.all_steps()
    if not steps:
        return None
    _, restored, damaged = _read_newest(folder, steps, lambda step: manager.restore(step, args=arguments))
    for newer, damage in damaged.items():
        if jax.process_index() == 0:
            _tell(say, newer, damage, _move_aside(folder, newer))
    if damaged:
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are moved aside")
        manager.reload()
    state = restored["state"]
    if wanted is not abstract_state:
        state = abstract_state.replace(**state)
    return state, restored["prompts"]


def _without_empty(state: Any) -> Any:
    """Give the fields of a dataclass by name, without optional ones that are empty."""
    if not dataclasses.is_dataclass(state):
        return state
    return {
        field.name: getattr(state, field.name)
        for field in dataclasses.fields(state)
        if field.default_factory is dataclasses.MISSING or jax.tree.leaves(getattr(state, field.name))
    }


def _read_newest(
    folder: epath.Path, steps: Sequence[int], read: Callable[[int], Any]
) -> tuple[int, Any, dict[int, str]]:
    """Read the newest of some checkpoints that is as it was written.

    Args:
        folder: of the checkpoints.
        steps: of those to choose from, at least one.
        read: gives the content of one.

    Returns:
        (step, content, what is wrong with each newer one).

    Raises:
        ConfigError: none can be read.
    """
    damaged: dict[int, str] = {}
    for step in sorted(steps, reverse=True):
        damage = "" if is_remote(str(folder)) else find_damage(Path(folder / str(step)))
        if not damage:
            try:
                return step, read(step), damaged
            except (MemoryError, jax.errors.JaxRuntimeError):
                raise  # a device or a host that is too small: the checkpoint may be whole
            except Exception as error:  # what is cut or missing fails in as many ways as there are files
                if jax.process_count() > 1:
                    raise  # the others may have read it
                damage = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
        damaged[step] = damage
    newest, listed = max(damaged), ", ".join(map(str, sorted(damaged)))
    raise ConfigError(
        f"workdir={str(folder.parent)!r}: expected a whole checkpoint, none of those of updates {listed} can "
        f"be read; {newest}: {damaged[newest]}"
    )


def _move_aside(folder: epath.Path, step: int) -> epath.Path:
    """Move a checkpoint out of the way of those that will be saved; nothing of it is lost."""
    aside = folder.parent / f"{folder.name}_damaged"
    target = aside / str(step)
    aside.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rmtree()
    (folder / str(step)).rename(target)
    return target


def _tell(say: Callable[[str], None], step: int, damage: str, aside: epath.Path) -> None:
    say(f"the checkpoint of update {step} is damaged ({damage}) and lies in {aside} now")


def _damage_of_rank(checkpoint: epath.Path) -> str:
    """Say what is wrong with the rank that is stored with a checkpoint, if there is one."""
    file = checkpoint / "metrics" / "metrics"
    try:
        if file.exists() and not isinstance(parse_object(file.read_text())["rank"], int | float):
            raise TypeError("no number")
    except (OSError, ValueError, KeyError, TypeError):
        return f"{file.parent.name}/{file.name} cannot be read"
    return ""


def list_steps(directory: epath.PathLike) -> list[int]:
    """List the updates of the checkpoints that have their name, ascending; nothing is changed."""
    folder = epath.Path(directory).expanduser().absolute()
    # The manager would make a folder that it may not write, or warn that it may not.
    found = ocp.path.step.standard_name_format().find_all(folder) if folder.is_dir() else []
    return sorted(metadata.step for metadata in found)


def count_bytes(state: Any) -> int:
    """Say how many bytes a checkpoint takes, at most; its leaves may be shapes alone."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def restore_student(
    directory: epath.PathLike, like: Any, *, step: int | None, averaged: bool = False
) -> tuple[int, Any]:
    """Read the student of a run, and nothing else of its state.

    Args:
        directory: folder of the checkpoints, left as it is.
        like: a pytree of the same structure and shapes.
        step: of the checkpoint; None is the newest that is whole.
        averaged: whether its moving average is read in its place.

    Returns:
        (step, student), the latter float32 NumPy arrays.

    Raises:
        ConfigError: there is no checkpoint, or none of that step, or none that can be read.
    """
    folder = epath.Path(directory).expanduser().absolute()
    steps = list_steps(folder)
    if not steps:
        raise ConfigError(f"workdir={str(folder.parent)!r}: expected a run with checkpoints, it has none")
    if step is not None and step not in steps:
        raise ConfigError(f"step={step}: expected one of the checkpoints {', '.join(map(str, steps))}")
    name = "average" if averaged else "student"
    item = {name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), like)}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    part = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        chosen, content, damaged = _read_newest(
            folder,
            steps if step is None else [step],
            lambda found: checkpointer.restore(folder / str(found) / "state", args=part),
        )
    for newer, damage in damaged.items():
        logging.warning(
            "the checkpoint of update %d is damaged (%s): that of %d is read", newer, damage, chosen
        )
    return chosen, content[name]


def _rank(metrics: Any) -> float:
    return metrics["rank"] if metrics else _UNRANKED


def _save(
    manager: ocp.CheckpointManager,
    step: int,
    state: Any,
    prompt_state: dict[str, Any],
    *,
    rank: float,
    force: bool,
) -> bool:
    if force or manager.should_save(step):
        manager.wait_until_finished()  # what the last one replaces is gone then
        _expect_room(manager, state)
    arguments = ocp.args.Composite(
        state=ocp.args.PyTreeSave(_without_empty(state)), prompts=ocp.args.JsonSave(prompt_state)
    )
    return manager.save(step, args=arguments, metrics={"rank": rank}, force=force)


def _expect_room(manager: ocp.CheckpointManager, state: Any) -> None:
    """Raise what a full disk does before it is full: Orbax, cut off, leaves a trail of tracebacks."""
    folder = manager.directory
    if (
        jax.process_index() == 0
        and not is_remote(str(folder))
        and free_bytes(Path(folder)) < count_bytes(state)
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
