"""The training loop: restore, update, log, draw, save."""

from __future__ import annotations

import functools
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from rats_jax.data.prompts import make_prompt_iterator
from rats_jax.errors import DivergedError, HackingError
from rats_jax.files import write_whole
from rats_jax.parallel import placement
from rats_jax.parallel import processes as distributed
from rats_jax.report import figures, run_table
from rats_jax.training import hacking
from rats_jax.training import sheets as report
from rats_jax.training.program import Program, abstract
from rats_jax.training.table import Pictures
from rats_jax.training.teacher import TargetMemory, TargetStore
from rats_jax.types import Batch, Key, Targets, TrainState
from rats_jax.workdir import checkpoint
from rats_jax.workdir.folder import claim, open_logs
from rats_jax.workdir.metrics import SAMPLES_FILE, MetricsWriter, read_metrics


def train_and_evaluate(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Train a student, or go on with the run in `workdir`, and end with the table.

    Args:
        config: fields as in configs/default.py.
        workdir: folder or gs:// address; gets config.json, metrics.jsonl, TensorBoard events, samples/,
            checkpoints/, curves.png and summary.json.

    Returns:
        The content of summary.json.

    Raises:
        ConfigError: bad input, before anything is compiled.
        DivergedError: the loss is no longer finite; the last checkpoint stays.
        HackingError: the student climbs its reward only, and the config asks to stop there.
    """
    return train(Program(config), config, workdir)


def train(program: Program, config: Any, workdir: str | Path) -> dict[str, Any]:
    """Do the same with a program that other runs may have used.

    Args:
        program: of a config that differs from this one at most in the folder of `teacher.targets` and,
            without adapters, which start from the seed, in `seed`.
        config, workdir: as of `train_and_evaluate`.
    """
    start = time.perf_counter()
    workdir = str(workdir)
    experiment, prompts, evaluation_set = program.experiment, program.prompts, program.evaluation_set
    batches = make_prompt_iterator(prompts, batch_size=config.batch_size, seed=config.seed)
    writes = jax.process_index() == 0
    claim(workdir, config, writes=writes)
    distributed.wait("the work directory is claimed")
    store, reuse_after = None, config.teacher.reuse_after
    if config.teacher.targets:
        store = TargetStore(config.teacher.targets, config, prompts, program.rows)
    elif reuse_after:
        store = TargetMemory()
    first_round = [next(batches) for _ in range(min(reuse_after, config.num_updates))]
    frozen, root = program.frozen, jax.random.key(config.seed)
    draws = config.samples.every > 0
    judges = config.evaluation.num_prompts > 0

    def find_targets(step: int, state: TrainState, batch: Batch, key: Key) -> Targets | None:
        """Take the teacher's targets of an update from the store, where the first run to come left them."""
        if store is None:
            return None
        found = store.read(step)
        everywhere = distributed.everywhere(found is not None)
        if found is None or not everywhere:
            found = placement.read_rows(program.teach(state.teacher, frozen, batch, key), program.rows)
            store.write(step, found)
        return program.place_rows(found)

    with (
        open_logs(workdir, writes=writes) as logs,
        checkpoint.open_manager(
            epath.Path(workdir) / "checkpoints", keep=config.checkpoint.keep, every=config.checkpoint.every
        ) as manager,
    ):
        restored = checkpoint.restore(manager, abstract(program.abstract_state, program.state_sharding))
        if restored is None:
            state = program.init_state()
        else:
            state, position = restored
            batches.set_state(position)
        step = int(state.step)

        size = sum(leaf.size for leaf in jax.tree.leaves(program.abstract_state.student))
        _say(
            f"{len(prompts)} prompts, {size / 1e6:.1f} M trained parameters, mesh {_shape(program.mesh)} in "
            f"{jax.process_count()} process{'es' if jax.process_count() > 1 else ''}, "
            f"{'resuming at' if step else 'starting from'} update {step}"
        )
        update = program.update
        _say(f"compiled the update in {program.compile_seconds:.1f} s")

        with MetricsWriter(logs.folder, step=step) as writer, _progress_bar(step, config.num_updates) as bar:
            elapsed_before = _elapsed(logs.folder)

            def log(step: int, metrics: Mapping[str, jax.Array]) -> None:
                values = {name: float(value) for name, value in metrics.items()}
                _check_finite(step, values, workdir, manager.latest_step())
                bar.set_postfix_str(
                    f"student {values['reward/student']:.3f}  teacher {values['reward/teacher']:.3f}  "
                    f"gate {values['gate/mean']:.2f}"
                )
                bar.update(step - bar.n)
                if step % config.log_every == 0 or step == config.num_updates:
                    elapsed = elapsed_before + time.perf_counter() - start
                    writer.write(step, values | {"time/elapsed": elapsed})

            @functools.cache
            def fixed() -> Mapping[str, Pictures]:
                moves = experiment.teacher_moves
                return report.fixed_rows(
                    experiment, program.render_fns, program.pretrained, evaluation_set, teacher_moves=moves
                )

            def draw(state: TrainState) -> dict[str, float]:
                step = int(state.step)
                sheet, record = report.draw_samples(
                    experiment, program.render_fns, state, fixed(), evaluation_set, config.samples.num
                )
                record["guard/diversity/student"] = report.measure_diversity(
                    experiment, program.render_fns, state, evaluation_set.prompts, evaluation_set.batch_size
                )
                figures.save_picture(sheet, logs.folder / "samples" / f"step_{step:06d}.png")
                writer.write_image(step, "samples", np.asarray(sheet))
                return record

            def watch(step: int, record: Mapping[str, float]) -> None:
                """Log a sheet; warn of a student that climbs its reward only, or end its run."""
                _check_finite(step, record, workdir, manager.latest_step())
                writer.write_samples(step, record)
                records = read_metrics(logs.folder / SAMPLES_FILE)
                fallen = hacking.find_hacking(records, patience=config.hacking_patience)
                if not distributed.agree(bool(fallen)):
                    return
                line = (
                    f"update {step}: over the last {config.hacking_patience} sheets of samples the reward "
                    f"rose while {', '.join(fallen)} fell; the best checkpoint in "
                    f"{_checkpoints(workdir)!r} is of update {checkpoint.best_step(manager)}"
                )
                if config.stop_on_hacking:
                    raise HackingError(line)
                _say(f"warning: {line}")

            pending = None
            while step < config.num_updates:
                # With reuse_after an update has the prompts, the noise and the targets of an earlier one.
                origin = step % reuse_after if reuse_after else step
                batch = program.place_batch(first_round[origin] if reuse_after else next(batches))
                key = jax.random.fold_in(root, origin)
                moved = experiment.teacher_moves and step % config.teacher.ema_every == 0
                if moved and isinstance(store, TargetMemory):
                    store.clear()
                targets = find_targets(origin, state, batch, key)
                state, metrics = update(state, frozen, batch, key, targets)
                # The update before this one is reported while this one runs: the device never waits.
                if pending is not None:
                    log(*pending)
                step += 1
                pending = (step, metrics)
                first, last = step == 1, step == config.num_updates
                drawn = draws and (last or step % config.samples.every == 0)
                saved = drawn or last or step % config.checkpoint.every == 0
                if saved or first:
                    log(*pending)  # raises before anything that is not finite is saved
                    pending = None
                if draws and first:
                    # The first sheet waits for the first update: a run shows soon that it works.
                    watch(0, draw(program.untrained_state()))
                if drawn:
                    record = draw(state)
                    rank = hacking.rank(record, judge=config.heldout_reward)
                    checkpoint.save_ranked(manager, step, state, batches.get_state(), rank)
                    watch(step, record)
                elif saved:
                    checkpoint.save(manager, step, state, batches.get_state())
                if saved:
                    logs.push()
            checkpoint.save_now(manager, step, state, batches.get_state())

        scores = {}
        if judges:
            scores = report.score(
                experiment,
                program.render_fns,
                state,
                program.pretrained,
                evaluation_set,
                heldout=config.heldout_reward,
                reference=program.reference,
            )
        summary: dict[str, Any] = scores | {
            "nfe": experiment.nfe,
            "teacher_nfe": experiment.teacher_nfe,
            "updates": step,
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "seconds": elapsed_before + time.perf_counter() - start,
            "compile_seconds": program.compile_seconds,
            "student_num_steps": config.student.num_steps,
        }
        if writes:
            summary |= report.curves(logs.folder)
            write_whole(logs.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
            file = f"{workdir.rstrip('/')}/summary.json"
            shown = [run_table.format_table(summary)] if judges else []
            print("\n" + "\n\n".join([*shown, f"{report.conclusion(summary)}\n{file}"]))
        return summary


def _shape(mesh: Any) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())


def _checkpoints(workdir: str) -> str:
    return f"{workdir.rstrip('/')}/checkpoints"


def _say(line: str) -> None:
    if jax.process_index() == 0:
        tqdm.write(line, file=sys.stderr)


def _progress_bar(step: int, num_updates: int) -> tqdm:
    return tqdm(total=num_updates, initial=step, unit="update", desc="RATS", disable=jax.process_index() != 0)


def _check_finite(step: int, values: Mapping[str, float], workdir: str, saved: int | None) -> None:
    bad = sorted(name for name, value in values.items() if not math.isfinite(value))
    if bad:
        raise DivergedError(
            f"update {step}: {bad[0]} is {values[bad[0]]}, expected a finite number; the newest checkpoint "
            f"in {_checkpoints(workdir)!r} is of update {saved}; try a smaller "
            "optimizer.learning_rate, or rats_jax.score with the same rewards on some pictures"
        )


def _elapsed(folder: Path) -> float:
    """Read how many seconds earlier starts of this run have taken, up to its last logged update."""
    records = read_metrics(folder)
    return records[-1]["time/elapsed"] if records else 0.0
