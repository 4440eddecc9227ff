"""The training loop: restore, update, log, draw, save. The only place that jits, places and donates."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from rats_jax import evaluate, report
from rats_jax.errors import ConfigError, DivergedError, HackingError
from rats_jax.evaluate import Pictures
from rats_jax.experiment import Experiment, make_experiment
from rats_jax.paths import resolve_path
from rats_jax.report import RenderFn
from rats_jax.runtime import checkpoint, figures, hacking, saved_config, sharding
from rats_jax.runtime.config import validate
from rats_jax.runtime.metrics import SAMPLES_FILE, MetricsWriter, read_metrics
from rats_jax.runtime.prompts import make_prompt_iterator, read_prompts
from rats_jax.types import Params, TrainState


def train_and_evaluate(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Train a student, or go on with the run in `workdir`, and end with the table.

    Args:
        config: fields as in configs/default.py.
        workdir: gets config.json, metrics.jsonl, TensorBoard events, samples/, checkpoints/, curves.png and
            summary.json.

    Returns:
        The content of summary.json.

    Raises:
        ConfigError: bad input, before anything is compiled.
        DivergedError: the loss is no longer finite; the last checkpoint stays.
        HackingError: the student climbs its reward only, and the config asks to stop there.
    """
    start = time.perf_counter()
    workdir = Path(workdir).expanduser()
    validate(config)
    prompts = read_prompts(resolve_path(config.prompts))
    mesh = sharding.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
    parts = config.optimizer.accumulation_steps
    sharding.validate_batch(mesh, field="batch_size", batch_size=config.batch_size, parts=parts)
    rendered = config.evaluation.batch_size
    sharding.validate_batch(mesh, field="evaluation.batch_size", batch_size=rendered, parts=1)
    experiment = make_experiment(config)
    reference = None
    if config.reference:
        path = resolve_path(config.reference)
        reference = evaluate.load_reference(path, prompts, experiment.image_shape())
    evaluation_set = evaluate.make_evaluation_set(experiment, prompts, config.evaluation)
    if len(prompts) <= config.num_updates * config.batch_size:
        # All will be seen: what the rewards read of them is computed together, not batch by batch.
        experiment.make_batch(prompts)
        experiment.make_monitor_inputs(prompts)
    batches = make_prompt_iterator(
        prompts,
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    _claim(workdir, config)

    abstract_state = jax.eval_shape(experiment.init_state, experiment.pipeline.unet)
    state_sharding = sharding.param_sharding(mesh, abstract_state)
    batch_sharding = sharding.batch_sharding(mesh)
    frozen = experiment.frozen_params()
    frozen_sharding = sharding.param_sharding(mesh, frozen)
    frozen = jax.device_put(frozen, frozen_sharding)
    pretrained = jax.device_put(experiment.pipeline.unet, state_sharding.student)
    render_fns = _make_render_fns(experiment, frozen, mesh)

    with checkpoint.open_manager(
        workdir / "checkpoints", keep=config.checkpoint.keep, every=config.checkpoint.every
    ) as manager:
        restored = checkpoint.restore(manager, _abstract(abstract_state, state_sharding))
        if restored is None:
            state = jax.jit(experiment.init_state, out_shardings=state_sharding)(pretrained)
        else:
            state, position = restored
            batches.set_state(position)
        step = int(state.step)

        size = sum(leaf.size for leaf in jax.tree.leaves(abstract_state.student))
        _say(
            f"{len(prompts)} prompts, {size / 1e6:.1f} M parameters, mesh data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']}, {'resuming at' if step else 'starting from'} update {step}"
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
        batch = experiment.make_batch(prompts[:1] * config.batch_size)
        update = update.lower(state, frozen, batch, root).compile()
        compile_seconds = time.perf_counter() - compile_start
        _say(f"compiled the update in {compile_seconds:.1f} s")

        with MetricsWriter(workdir, step=step) as writer, _progress_bar(step, config.num_updates) as bar:
            elapsed_before = _elapsed(workdir)

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
                figures.save_picture(sheet, workdir / "samples" / f"step_{step:06d}.png")
                writer.write_image(step, "samples", np.asarray(sheet))
                return record

            def watch(step: int, record: Mapping[str, float]) -> None:
                """Log a sheet; warn of a student that climbs its reward only, or end its run."""
                _check_finite(step, record, workdir, manager.latest_step())
                writer.write_samples(step, record)
                records = read_metrics(workdir / SAMPLES_FILE)
                fallen = hacking.find_hacking(records, patience=config.hacking_patience)
                if not fallen:
                    return
                line = (
                    f"update {step}: over the last {config.hacking_patience} sheets of samples the reward "
                    f"rose while {', '.join(fallen)} fell; the best checkpoint in "
                    f"{str(workdir / 'checkpoints')!r} is of update {checkpoint.best_step(manager)}"
                )
                if config.stop_on_hacking:
                    raise HackingError(line)
                _say(f"warning: {line}")

            if step == 0:
                watch(step, draw(state))
            pending = None
            while step < config.num_updates:
                batch = jax.device_put(experiment.make_batch(next(batches).prompts), batch_sharding)
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
        summary |= report.curves(workdir)
        summary |= {
            "updates": step,
            "seconds": elapsed_before + time.perf_counter() - start,
            "compile_seconds": compile_seconds,
            "student_num_steps": config.student.num_steps,
        }
        _write_whole(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
        print(
            f"\n{evaluate.format_table(summary)}\n\n{report.conclusion(summary)}\n{workdir / 'summary.json'}"
        )
        return summary


def _claim(workdir: Path, config: Any) -> None:
    """Take a new work directory, or check that the run in it had the same config."""
    file = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"workdir={str(workdir)!r}: expected a folder, it is a file")
    if file.exists():
        saved_config.validate_resume(saved_config.from_json(file.read_text()), config, workdir=str(workdir))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _write_whole(file, saved_config.to_json(config))
    except OSError as error:
        raise ConfigError(
            f"workdir={str(workdir)!r}: expected a writable folder ({error.strerror})"
        ) from None


def _say(line: str) -> None:
    if jax.process_index() == 0:
        tqdm.write(line, file=sys.stderr)


def _write_whole(file: Path, text: str) -> None:
    partial = file.with_suffix(".tmp")
    partial.write_text(text)
    partial.replace(file)


def _abstract(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _make_render_fns(experiment: Experiment, frozen: Any, mesh: Any) -> dict[str, RenderFn]:
    """Jit the three samplers of the table: (params, batch, monitors' inputs, noise) -> Pictures."""
    monitors = {name: reward.params for name, reward in experiment.monitors.items()}
    monitors = jax.device_put(monitors, sharding.replicated(mesh))

    def bind(rollout_fn: Any) -> RenderFn:
        render = jax.jit(evaluate.make_render_fn(experiment, rollout_fn))

        def bound(params: Params, *inputs: Any) -> Pictures:
            return render(params, frozen, monitors, *jax.device_put(inputs, sharding.batch_sharding(mesh)))

        return bound

    return {
        "teacher": bind(experiment.teacher_rollout_fn),
        "student": bind(experiment.student_rollout_fn),
        "untrained_cfg": bind(experiment.untrained_cfg_rollout_fn),
    }


def _progress_bar(step: int, num_updates: int) -> tqdm:
    return tqdm(total=num_updates, initial=step, unit="update", desc="RATS", disable=jax.process_index() != 0)


def _check_finite(step: int, values: Mapping[str, float], workdir: Path, saved: int | None) -> None:
    bad = sorted(name for name, value in values.items() if not math.isfinite(value))
    if bad:
        raise DivergedError(
            f"update {step}: {bad[0]} is {values[bad[0]]}, expected a finite number; the newest checkpoint "
            f"in {str(workdir / 'checkpoints')!r} is of update {saved}; try a smaller "
            "optimizer.learning_rate, or rats_jax.score with the same rewards on some pictures"
        )


def _elapsed(workdir: Path) -> float:
    """Read how many seconds earlier starts of this run have taken, up to its last logged update."""
    records = read_metrics(workdir)
    return records[-1]["time/elapsed"] if records else 0.0
