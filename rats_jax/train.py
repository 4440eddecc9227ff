"""The training loop: restore, update, log, draw, save. The only place that jits, places and donates."""

from __future__ import annotations

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

from rats_jax import report
from rats_jax.errors import DivergedError, HackingError
from rats_jax.evaluation import table
from rats_jax.evaluation.table import Pictures
from rats_jax.experiment import Experiment, make_experiment, open_models
from rats_jax.paths import resolve_path
from rats_jax.report import RenderFn
from rats_jax.runtime import checkpoint, distributed, figures, hacking, sharding
from rats_jax.runtime.config import validate
from rats_jax.runtime.metrics import SAMPLES_FILE, MetricsWriter, read_metrics
from rats_jax.runtime.prompts import find_prompts, make_prompt_iterator
from rats_jax.runtime.workdir import claim, open_logs, write_whole
from rats_jax.types import Batch, Params, TrainState


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
    start = time.perf_counter()
    workdir = str(workdir)
    validate(config)
    prompts = find_prompts(config.prompts)
    mesh = sharding.make_mesh(config.mesh)
    parts = config.optimizer.accumulation_steps
    sharding.validate_batch(mesh, field="batch_size", batch_size=config.batch_size, parts=parts)
    rendered = config.evaluation.batch_size
    sharding.validate_batch(mesh, field="evaluation.batch_size", batch_size=rendered, parts=1)
    experiment = make_experiment(config, open_models(config), mesh)
    reference = None
    if config.reference:
        path = resolve_path(config.reference)
        reference = table.load_reference(path, prompts, experiment.image_shape())
    evaluation_set = table.make_evaluation_set(experiment, prompts, config.evaluation)
    if len(prompts) <= config.num_updates * config.batch_size:
        # All will be seen: what the rewards read of them is computed together, not batch by batch.
        experiment.make_batch(list(prompts))
        experiment.make_monitor_inputs(list(prompts))
    batches = make_prompt_iterator(prompts, batch_size=config.batch_size, seed=config.seed)
    writes = jax.process_index() == 0
    claim(workdir, config, writes=writes)
    distributed.wait("the work directory is claimed")

    abstract_state = experiment.abstract_state()
    state_sharding = sharding.param_sharding(mesh, abstract_state, config.sharding)
    batch_sharding = sharding.batch_sharding(mesh)
    frozen = experiment.frozen_params()
    frozen_sharding = sharding.param_sharding(mesh, frozen, config.sharding)
    frozen = sharding.place(frozen, frozen_sharding)
    untrained = frozen.base
    if config.lora.rank:
        untrained = sharding.place(experiment.student, state_sharding.student)
    pretrained = report.Pretrained(untrained, untrained if experiment.teacher_moves else {})
    render_fns = _make_render_fns(experiment, frozen, mesh, config.sharding)
    rows = sharding.local_rows(batch_sharding, config.batch_size)

    def place_batch(indices: np.ndarray) -> Batch:
        """Read and place the prompts of those rows that the devices of this process hold."""
        batch = experiment.make_batch([prompts[int(i)] for i in indices[rows]])
        return sharding.place_rows(batch, rows, batch_sharding, config.batch_size)

    with (
        open_logs(workdir, writes=writes) as logs,
        checkpoint.open_manager(
            epath.Path(workdir) / "checkpoints", keep=config.checkpoint.keep, every=config.checkpoint.every
        ) as manager,
    ):
        restored = checkpoint.restore(manager, _abstract(abstract_state, state_sharding))
        if restored is None:
            student = sharding.place(experiment.student, state_sharding.student)
            state = jax.jit(experiment.init_state, out_shardings=state_sharding)(student)
        else:
            state, position = restored
            batches.set_state(position)
        step = int(state.step)

        size = sum(leaf.size for leaf in jax.tree.leaves(abstract_state.student))
        _say(
            f"{len(prompts)} prompts, {size / 1e6:.1f} M trained parameters, mesh {_shape(mesh)} in "
            f"{jax.process_count()} process{'es' if jax.process_count() > 1 else ''}, "
            f"{'resuming at' if step else 'starting from'} update {step}"
        )
        compile_start = time.perf_counter()
        root = jax.random.key(config.seed)
        update = jax.jit(
            experiment.update_fn,
            in_shardings=(state_sharding, frozen_sharding, batch_sharding, None),
            out_shardings=(state_sharding, None),
            donate_argnums=0,
        )
        # Compiled ahead of the loop, once: a batch that would need a second compilation raises instead.
        batch = place_batch(np.zeros(config.batch_size, np.int64))
        update = update.lower(state, frozen, batch, root).compile()
        compile_seconds = time.perf_counter() - compile_start
        _say(f"compiled the update in {compile_seconds:.1f} s")

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

            moves = config.teacher.ema_decay < 1
            fixed = report.fixed_rows(experiment, render_fns, pretrained, evaluation_set, teacher_moves=moves)

            def draw(state: TrainState) -> dict[str, float]:
                step = int(state.step)
                sheet, record = report.draw_samples(
                    experiment, render_fns, state, fixed, evaluation_set, config.samples.num
                )
                record["guard/diversity/student"] = report.measure_diversity(
                    experiment, render_fns, state, evaluation_set.prompts, evaluation_set.batch_size
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

            if step == 0:
                watch(step, draw(state))
            pending = None
            while step < config.num_updates:
                batch = place_batch(next(batches))
                state, metrics = update(state, frozen, batch, jax.random.fold_in(root, step))
                # The update before this one is reported while this one runs: the device never waits.
                if pending is not None:
                    log(*pending)
                step += 1
                pending = (step, metrics)
                last = step == config.num_updates
                if last or step % config.checkpoint.every == 0 or step % config.samples.every == 0:
                    log(*pending)  # raises before anything that is not finite is saved
                    pending = None
                    if last or step % config.samples.every == 0:
                        record = draw(state)
                        rank = hacking.rank(record, judge=config.heldout_reward)
                        checkpoint.save_ranked(manager, step, state, batches.get_state(), rank)
                        watch(step, record)
                    else:
                        checkpoint.save(manager, step, state, batches.get_state())
                    logs.push()
            checkpoint.save_now(manager, step, state, batches.get_state())

        summary = report.score(
            experiment,
            render_fns,
            state,
            pretrained,
            evaluation_set,
            heldout=config.heldout_reward,
            reference=reference,
        )
        summary |= {
            "updates": step,
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "seconds": elapsed_before + time.perf_counter() - start,
            "compile_seconds": compile_seconds,
            "student_num_steps": config.student.num_steps,
        }
        if writes:
            summary |= report.curves(logs.folder)
            write_whole(logs.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
            file = f"{workdir.rstrip('/')}/summary.json"
            print(f"\n{table.format_table(summary)}\n\n{report.conclusion(summary)}\n{file}")
        return summary


def _shape(mesh: Any) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())


def _checkpoints(workdir: str) -> str:
    return f"{workdir.rstrip('/')}/checkpoints"


def _say(line: str) -> None:
    if jax.process_index() == 0:
        tqdm.write(line, file=sys.stderr)


def _abstract(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _make_render_fns(experiment: Experiment, frozen: Any, mesh: Any, rules: Any) -> dict[str, RenderFn]:
    """Jit the three samplers of the table: (params, batch, monitors' inputs, noise) -> Pictures."""
    monitors = {"monitors": experiment.monitor_params()}
    monitors = sharding.place(monitors, sharding.param_sharding(mesh, monitors, rules))["monitors"]

    def bind(rollout_fn: Any, params_fn: Any) -> RenderFn:
        # Every process gets all pictures: they are few, and all draw the same conclusions from them.
        whole = sharding.replicated(mesh)
        render = jax.jit(table.make_render_fn(experiment, rollout_fn, params_fn), out_shardings=whole)

        def bound(params: Params, *inputs: Any) -> Pictures:
            return render(params, frozen, monitors, *sharding.place(inputs, sharding.batch_sharding(mesh)))

        return bound

    return {
        "teacher": bind(experiment.teacher_rollout_fn, experiment.teacher_params_fn),
        "student": bind(experiment.student_rollout_fn, experiment.student_params_fn),
        "untrained_cfg": bind(experiment.untrained_cfg_rollout_fn, experiment.student_params_fn),
    }


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
