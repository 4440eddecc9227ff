"""The training loop: restore, update, log, draw, save."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
from etils import epath

from rats_jax.config.together import validate
from rats_jax.data.batches import Rounds
from rats_jax.data.prompts import make_prompt_iterator
from rats_jax.errors import StoppedError, expect
from rats_jax.files import expect_room, format_bytes, free_bytes, naming_disk
from rats_jax.parallel import processes
from rats_jax.paths import any_path, expect_workdir, is_remote
from rats_jax.training import hacking
from rats_jax.training.due import find_due
from rats_jax.training.logbook import Logbook, say
from rats_jax.training.program import Program
from rats_jax.training.sheets import Sheets
from rats_jax.training.stop import watch_for_stop
from rats_jax.training.summary import finish
from rats_jax.training.teacher import open_targets
from rats_jax.workdir import checkpoint, saved_config
from rats_jax.workdir.folder import claim, keep_config, open_logs
from rats_jax.workdir.lock import locked
from rats_jax.workdir.loggers import open_loggers
from rats_jax.workdir.services import expect_loggers


def train_and_evaluate(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Train a student, or go on with the run in `workdir`, and end with the table.

    Args:
        config: fields as in configs/default.py.
        workdir: folder or gs:// address; gets config.json, metrics.jsonl, samples/, checkpoints/, curves.png,
            summary.json and what its loggers keep here.

    Returns:
        The content of summary.json.

    Raises:
        ConfigError: bad input, before anything is compiled; a disk that fails, at any time.
        DivergedError: the loss is no longer finite; the last checkpoint stays.
        HackingError: the student climbs its reward only, and the config asks to stop there.
        StoppedError: SIGTERM came; the last update is saved.
    """
    expect_workdir(str(workdir), "workdir")
    validate(config)
    if jax.process_index() == 0:
        expect_loggers(config.loggers)
    return train(Program(config), config, workdir)


def train(program: Program, config: Any, workdir: str | Path) -> dict[str, Any]:
    """Train as `train_and_evaluate` does, with a program that other runs may have used.

    Args:
        program: of a config that differs from this one at most in the folder of `teacher.targets` and,
            without adapters, which start from the seed, in `seed`.
        config: as of `train_and_evaluate`.
        workdir: as of `train_and_evaluate`.
    """
    started = time.perf_counter()
    place = any_path(str(workdir), "workdir")
    workdir, folder = str(place), place / "checkpoints"
    stream = make_prompt_iterator(program.prompts, batch_size=config.batch_size, seed=config.seed)
    writes = jax.process_index() == 0
    processes.expect_same({"config": saved_config.to_json(config), "prompts": "\n".join(program.prompts)})
    claim(workdir, config, writes=writes)
    processes.expect_shared(place, "workdir")  # which is there for all from here on
    targets = open_targets(config, program)
    rounds = Rounds(stream, length=config.teacher.reuse_after, num_updates=config.num_updates)
    with (
        _naming_disk(folder, program.placed_state),
        locked(workdir, writes=writes),
        open_logs(workdir, writes=writes) as logs,
        open_loggers(config, workdir, logs.folder, writes=writes, say=say) as loggers,
        checkpoint.open_manager(
            folder, keep=config.checkpoint.keep, every=config.checkpoint.every, say=say
        ) as manager,
    ):
        if writes and manager.latest_step() != config.num_updates:
            _check_room(workdir, folder, program.placed_state, keep=config.checkpoint.keep)
        restored = checkpoint.restore(manager, program.placed_state, say=say)
        state, position = restored or (program.init_state(), None)
        if position is not None:
            stream.set_state(position)
        step, root = int(state.step), jax.random.key(config.seed)
        expected = f"at least {step}, the updates that the run in {workdir!r} has made"
        expect(step <= config.num_updates, "num_updates", config.num_updates, expected)
        if writes:
            keep_config(workdir, config)
        say(program.describe(step))
        if config.samples.every or config.evaluation.num_prompts:
            _ = program.render_fns  # reads the monitors, which may not be finite, before anything is compiled
        update = program.update
        say(f"compiled the update in {program.compile_seconds:.1f} s")

        def saved() -> tuple[int | None, int | None]:
            return manager.latest_step(), checkpoint.best_step(manager)

        with (
            watch_for_stop(manager) as is_stopped,
            Logbook(
                config, workdir, logs.folder, step=step, started=started, loggers=loggers, saved=saved
            ) as book,
        ):
            sheets = Sheets(program, count=config.samples.num)
            while step < config.num_updates:
                origin = rounds.origin(step)
                batch = program.place_batch(rounds.take(step))
                key = program.fold_key(root, origin)
                given = targets.find(step, origin, state, batch, key)
                with (
                    jax.profiler.StepTraceAnnotation("update", step_num=step),
                    jax.transfer_guard("disallow"),
                ):
                    state, metrics = update(state, program.frozen, batch, key, *given)
                step += 1
                book.log(step, metrics)
                due = find_due(config, step)
                if due.saves or step == 1:
                    book.flush()  # raises before anything that is not finite is saved
                if due.starts:
                    book.log_sheet(0, *sheets.draw(program.untrained_state()))
                if due.draws:
                    sheet, record = sheets.draw(state)
                    book.log_sheet(step, sheet, record)  # what is saved is not drawn again
                    rank = hacking.rank(record, judge=config.heldout_reward)
                    checkpoint.save_ranked(manager, step, state, stream.get_state(), rank)
                    book.warn_of_hacking(step)
                elif due.saves:
                    checkpoint.save(manager, step, state, stream.get_state())
                if due.saves:
                    logs.push()
                if step < config.num_updates and is_stopped(step):
                    book.flush()
                    checkpoint.save_now(manager, step, state, stream.get_state())
                    done = f"stopped after update {step} of {config.num_updates}, which is saved"
                    raise StoppedError(f"{done}: the same command goes on from there")
            checkpoint.save_now(manager, step, state, stream.get_state())
        return finish(program, config, state, book, loggers, workdir=workdir, writes=writes)


def _naming_disk(folder: epath.Path, state: Any) -> AbstractContextManager[None]:
    """End a run whose disk fails with one line that says what is needed and how it goes on."""

    def more() -> str:
        try:
            steps = checkpoint.list_steps(folder)
        except OSError:
            return ""
        free, size = format_bytes(free_bytes(Path(folder))), format_bytes(checkpoint.count_bytes(state))
        goes_on = (
            f"goes on after update {steps[-1]}, which is saved" if steps else "starts again: none is saved"
        )
        return f"; {free} are free, a checkpoint takes {size}; the same command {goes_on}"

    return naming_disk(Path(folder.parent), field="workdir", more=more)


def _check_room(workdir: str, folder: epath.Path, state: Any, *, keep: int) -> None:
    """Refuse, before anything is compiled, a disk that takes no checkpoint; warn of one that takes too few.

    Raises:
        ConfigError: there is no room for one.
    """
    if is_remote(workdir):
        return
    size, place = checkpoint.count_bytes(state), Path(folder)
    expect_room(place.parent, size, field="workdir", content="a checkpoint")
    missing = keep + 2 - len(checkpoint.list_steps(folder))  # the best one, and one that is being written
    free = free_bytes(place)
    if free < missing * size:
        say(
            f"warning: workdir={workdir!r}: {format_bytes(free)} are free, the checkpoints that will be kept "
            f"take up to {format_bytes(missing * size)} more"
        )
