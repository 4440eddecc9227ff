"""Checkpoints: the TrainState and the position among the prompts, through Orbax.

The frozen weights are not in them, and no key either: keys are folded from the seed and the step.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from rats_jax.errors import ConfigError

# Below every rank: a checkpoint of which nothing was measured is the best of none.
_UNRANKED = float("-inf")


def open_manager(directory: epath.PathLike, *, keep: int, every: int) -> ocp.CheckpointManager:
    """Open the checkpoints of a run, made if there are none; what an interrupted save left is removed.

    Args:
        directory: folder of the checkpoints.
        keep: newest checkpoints that stay, >= 1; the one of the highest rank stays besides.
        every: `save` writes the steps that this divides, >= 1.

    Returns:
        The manager; use it in a `with`, or `close` it, so that the last save finishes.
    """
    managers = ocp.checkpoint_managers
    best = managers.BestN(get_metric_fn=_rank, n=1)
    options = ocp.CheckpointManagerOptions(
        best_fn=_rank,  # without it Orbax does not write metrics
        preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
        save_decision_policy=managers.FixedIntervalPolicy(every),
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(epath.Path(directory).expanduser().absolute(), options=options)


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


def restore(manager: ocp.CheckpointManager, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
    """Restore the newest complete checkpoint.

    Args:
        manager: from `open_manager`.
        abstract_state: the state's pytree of jax.ShapeDtypeStruct, whose shardings say where each leaf goes.

    Returns:
        (state, prompt_state), bit for bit what was saved, or None if there is no checkpoint.
    """
    step = manager.latest_step()
    if step is None:
        return None
    arguments = ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state), prompts=ocp.args.JsonRestore()
    )
    restored = manager.restore(step, args=arguments)
    return restored["state"], restored["prompts"]


def restore_student(directory: epath.PathLike, like: Any, *, step: int | None) -> tuple[int, Any]:
    """Read the student of a run, and nothing else of its state.

    Args:
        directory: folder of the checkpoints, left as it is.
        like: a pytree of the same structure and shapes.
        step: of the checkpoint; None is the newest.

    Returns:
        (step, student), the latter float32 NumPy arrays.

    Raises:
        ConfigError: there is no checkpoint, or none of that step.
    """
    folder = epath.Path(directory).expanduser().absolute()
    # The manager would make a folder that it may not write, or warn that it may not.
    found = ocp.path.step.standard_name_format().find_all(folder) if folder.is_dir() else []
    steps = sorted(metadata.step for metadata in found)
    if not steps:
        raise ConfigError(f"workdir={str(folder.parent)!r}: expected a run with checkpoints, it has none")
    if step is not None and step not in steps:
        raise ConfigError(f"step={step}: expected one of the checkpoints {', '.join(map(str, steps))}")
    chosen = steps[-1] if step is None else step
    item = {"student": jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), like)}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    part = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return chosen, checkpointer.restore(folder / str(chosen) / "state", args=part)["student"]


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
    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave(state), prompts=ocp.args.JsonSave(prompt_state)
    )
    return manager.save(step, args=arguments, metrics={"rank": rank}, force=force)
