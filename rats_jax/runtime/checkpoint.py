"""Checkpoints: the TrainState and the position among the prompts, through Orbax.

The frozen weights are not in them, and no key either: keys are folded from the seed and the step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp


def open_manager(directory: str | Path, *, keep: int, every: int) -> ocp.CheckpointManager:
    """Open the checkpoints of a run, made if there are none; what an interrupted save left is removed.

    Args:
        directory: folder of the checkpoints.
        keep: newest checkpoints that stay, >= 1.
        every: `save` writes the steps that this divides, >= 1.

    Returns:
        The manager; use it in a `with`, or `close` it, so that the last save finishes.
    """
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        save_decision_policy=ocp.checkpoint_managers.FixedIntervalPolicy(every),
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(Path(directory).absolute(), options=options)


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
    return manager.save(step, args=_arguments(state, prompt_state))


def save_now(manager: ocp.CheckpointManager, step: int, state: Any, prompt_state: dict[str, Any]) -> None:
    """Save the step, due or not, unless it is there already, and wait until it is on disk; see `save`."""
    manager.wait_until_finished()
    if step not in manager.all_steps():
        manager.save(step, args=_arguments(state, prompt_state), force=True)
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


def _arguments(state: Any, prompt_state: dict[str, Any]) -> ocp.args.Composite:
    return ocp.args.Composite(state=ocp.args.StandardSave(state), prompts=ocp.args.JsonSave(prompt_state))
