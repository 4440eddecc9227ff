"""Runs of a comparison: trained, judged and compared, job by job."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rats_jax.ablation import table as ablation
from rats_jax.ablation.curves import draw_curves, format_training, read_curves, summarise
from rats_jax.ablation.plan import Job
from rats_jax.ablation.table import TEACHER
from rats_jax.config.fields import flatten
from rats_jax.data.prompts import find_prompts
from rats_jax.errors import ConfigError, expect, reason_of
from rats_jax.evaluation.contestants import Entry
from rats_jax.evaluation.fixed_set import Judges, make_contest, open_judges
from rats_jax.evaluation.measures import measure, open_alexnet
from rats_jax.files import whole_file, write_whole
from rats_jax.parallel.cache import keep_compiled
from rats_jax.paths import is_dataset, is_remote, local_path
from rats_jax.pipelines.open import options_of
from rats_jax.rewards.own import file_of
from rats_jax.student.load import load, load_pretrained
from rats_jax.student.model import Generator
from rats_jax.texts import parse_object, read_text
from rats_jax.training.loop import train
from rats_jax.training.program import Program
from rats_jax.workdir import saved_config
from rats_jax.workdir.services import expect_loggers

_SCORES, _COST, _JOB = "scores.npz", "cost.json", "job.json"


def run_all(jobs: Sequence[Job], config: Any, *, processes: int, say: Callable[[str], None]) -> None:
    """Do the jobs that are not done yet.

    Args:
        jobs: from `plan`.
        config: of the comparison.
        processes: that share the processor's cores; 1 uses this process.
        say: gets a line for each share of the work, see `share_out`.

    Raises:
        ConfigError: a run of another config lies where one of these should, its files are damaged, or prompts
            cannot be read.
    """
    settings = config.evaluation.to_dict()
    left = [job for job in jobs if not _is_done(job, settings)]
    if len(left) < len(jobs):
        say(f"{len(jobs) - len(left)} of {len(jobs)} were done before")
    for _, file, *_ in settings["prompts"] if left else ():
        if file:
            _find_prompts(file)  # what cannot be read is refused now, not after the training
    for job in left:
        expect_loggers(json.loads(job.config)["loggers"])
    shares = share_out(left, processes)
    do = functools.partial(_do, settings=settings)
    start, num_done = time.perf_counter(), 0

    def tell(share: Sequence[Job], seconds: float) -> None:
        nonlocal num_done
        num_done += 1
        hours = (time.perf_counter() - start) / num_done * (len(shares) - num_done) / 3600
        say(f"{_line(share, seconds)}; {num_done} of {len(shares)}, {hours:.2f} hours left")

    if processes == 1 or len(shares) < 2:
        for share in shares:
            tell(share, do(share))
        return
    context = multiprocessing.get_context("spawn")
    turns = context.Value("i", 0)
    with ProcessPoolExecutor(processes, context, _take_cores, (turns, processes)) as pool:
        waiting = {pool.submit(do, share): share for share in shares}
        try:
            for done in as_completed(waiting):
                tell(waiting[done], done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def share_out(jobs: Sequence[Job], processes: int) -> list[list[Job]]:
    """Split jobs into shares, each of which one process does in order.

    A single process takes variant after variant: runs that differ in their seed share a compiled update. Of
    several, one takes all runs that share the targets of a frozen teacher, or each would ask that teacher
    again; other runs are shares of their own.

    Args:
        jobs: from `plan`, or what is left of them.
        processes: that share the work.
    """
    shares: dict[Any, list[Job]] = {}
    for job in jobs:
        variant = job.variant, job.num_steps
        targets = json.loads(job.config)["teacher"]["targets"]
        shares.setdefault(variant if processes == 1 else targets or (variant, job.seed), []).append(job)
    return list(shares.values())


def _is_done(job: Job, settings: Mapping[str, Any]) -> bool:
    """Tell whether a job has its scores, and check that they are of this comparison."""
    if not (job.folder / _SCORES).exists():
        return False
    wanted, found = flatten(_identity(job, settings)), flatten(_read_identity(job.folder / _JOB))
    for field in sorted(wanted | found):
        if field.startswith("files.") and not (field in wanted and field in found):
            continue  # a file that is gone, or scores of before digests were kept
        if wanted.get(field) != found.get(field):
            was, expected = found.get(field), f"the same as in {str(job.folder)!r}"
            expect(False, field, wanted.get(field), f"{expected}, {was!r}, or another workdir")
    return True


def _read_json(file: Path) -> dict[str, Any]:
    """Read what a job wrote.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    try:
        return parse_object(read_text(file))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(file)!r}: expected what a job wrote, as JSON ({reason_of(error)})") from None


def _identity(job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the scores of a job depend on, as JSON gives it back."""
    run = json.loads(job.config)
    run["teacher"].pop("targets")  # a place
    run.pop("loggers")  # are told what comes of it
    fields = "num_prompts", "num_seeds", "prompts", "seed"
    evaluation = {name: settings[name] for name in fields}
    identity = {"base": run, "evaluation": json.loads(json.dumps(evaluation))}
    digests = _digest_files(run, settings["prompts"])
    return identity | ({"files": digests} if digests else {})


def _digest_files(run: Mapping[str, Any], prompts: Sequence[Sequence[Any]]) -> dict[str, str]:
    """Give the SHA-256 of a user's own files that a job reads, rewards and prompts, by their paths."""
    rewards = [reward["kind"] for name in ("rewards", "monitor") for reward in run[name].values()]
    named = run["prompts"], run["heldout_prompts"], *(row[1] for row in prompts)
    own = [path for path in named if not (is_dataset(path) or is_remote(path) or path.startswith("assets/"))]
    files = {path: local_path(path, "files") for path in (*map(file_of, rewards), *own) if path}
    there = {path: file.read_bytes() for path, file in files.items() if file.is_file()}
    return {path: hashlib.sha256(content).hexdigest() for path, content in there.items()}


def _read_identity(file: Path) -> dict[str, Any]:
    """Read what `_identity` gave when the scores of a job were written, with the fields that came later."""
    found = _read_json(file)
    if isinstance(found.get("base"), dict):
        found["base"] = saved_config.with_added(found["base"])
        found["base"].pop("loggers")
    return found


def _line(share: Sequence[Job], seconds: float) -> str:
    variants = ", ".join(dict.fromkeys(job.variant for job in share))
    seeds = ", ".join(dict.fromkeys(str(job.seed) for job in share if job.seed >= 0))
    return f"{variants}, {share[0].num_steps} steps{seeds and f', seeds {seeds}'}: {seconds:.0f} s"


def _take_cores(turns: Any, processes: int) -> None:
    """Give this process its share of the cores, before JAX counts them."""
    with turns.get_lock():
        turn = turns.value
        turns.value += 1
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[turn::processes])


def _do(share: Sequence[Job], *, settings: Mapping[str, Any]) -> float:
    """Do jobs one after another; gives the seconds that they took."""
    keep_compiled()
    return sum(_do_one(job, settings=settings) for job in share)


def _do_one(job: Job, *, settings: Mapping[str, Any]) -> float:
    """Train, unless there is nothing to train, draw and judge; gives the seconds that it took."""
    start, cpu_start = time.perf_counter(), time.process_time()
    run: Any = ConfigDict(saved_config.from_json(job.config))
    job.folder.mkdir(parents=True, exist_ok=True)
    if job.seed >= 0:
        with (job.folder / "log.txt").open("a", encoding="utf-8") as log:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                train(_program(run), run, job.folder)
        model = load(str(job.folder))
    else:
        model = load_pretrained(run, role="teacher" if job.variant == TEACHER else "student")
    spacing = model.timestep_spacing
    drawer = _DRAWERS.setdefault((run.pretrained, options_of(run), model.sampler, spacing), model)
    model = drawer.with_network(model.pipeline.network, guidance_scale=model.guidance_scale)
    judges = _judges(run, videos=model.makes_videos)
    alexnet = _alexnet() if settings["num_seeds"] > 1 else {}
    options = {"batch_size": settings["batch_size"], "progress": False}

    @functools.cache  # the teacher draws with its own steps in sets that differ in those of the others
    def score(file: str, num_steps: int) -> Mapping[str, np.ndarray]:
        entry = Entry(job.variant, model, num_steps, model.guidance_scale)
        contest = make_contest(
            _find_prompts(file),
            model.pipeline.latent_shape,
            num_prompts=settings["num_prompts"],
            num_seeds=settings["num_seeds"],
            seed=settings["seed"],
        )
        (measured,) = measure([entry], contest, judges, alexnet, None, **options)
        return measured.scores

    scores: dict[str, Any] = {}
    for title, file, *other in settings["prompts"]:
        num_steps = job.num_steps if job.variant == TEACHER else (*other, job.num_steps)[0]
        found = score(file or run.prompts, num_steps)
        scores |= {f"{title}/{name}": values for name, values in found.items()}
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    cost = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}
    write_whole(job.folder / _COST, json.dumps(cost) + "\n")
    write_whole(job.folder / _JOB, json.dumps(_identity(job, settings), indent=2) + "\n")
    with whole_file(job.folder / _SCORES) as partial:
        np.savez(partial, **scores)
    return seconds


# A process opens networks and rewards, and compiles what draws with them, once for all of its jobs; the
# program that trains is kept while only the seed changes.
_DRAWERS: dict[Any, Generator] = {}
_JUDGES: dict[str, Judges] = {}
_PROGRAM: dict[str, Program] = {}


def _program(run: Any) -> Program:
    seedless: Any = ConfigDict(saved_config.from_json(saved_config.to_json(run)))
    seedless.seed = run.seed if run.lora.rank else 0
    seedless.teacher.targets = str(bool(run.teacher.targets))
    key = saved_config.to_json(seedless)
    if key not in _PROGRAM:
        _PROGRAM.clear()
        jax.clear_caches()
        _PROGRAM[key] = Program(run)
    return _PROGRAM[key]


def _judges(run: Any, *, videos: bool) -> Judges:
    chosen = run.rewards.to_dict(), run.monitor.to_dict(), run.normalise_rewards, run.reward_frames, videos
    key = json.dumps(chosen, sort_keys=True)
    if key not in _JUDGES:
        _JUDGES[key] = open_judges(run, videos=videos)
    return _JUDGES[key]


_alexnet = functools.cache(open_alexnet)
_find_prompts = functools.cache(find_prompts)


def write(jobs: Sequence[Job], config: Any, workdir: Path, *, say: Callable[[str], None]) -> None:
    """Compare all variants and write ablation.json, ablation.md, ablation.png and ablation_curves.png.

    Args:
        jobs: all of them done.
        config: of the comparison.
        workdir: its folder.
        say: gets the table, before anything is written: a full disk takes nothing of it.
    """
    outcomes = {}
    for title, *_ in config.evaluation.prompts:
        scores = _read_scores(jobs, title)
        outcomes[title] = ablation.compare(
            scores,
            judge=config.base.heldout_reward,
            measures=ablation.shown_measures(config.base, list(next(iter(scores.values())))),
            against=config.variants[0][0],
            num_resamples=config.evaluation.num_resamples,
            seed=config.evaluation.seed,
        )
    curves = read_curves(jobs)
    outcome: dict[str, Any] = {"prompts": outcomes, "training": summarise(curves), "cost": _read_cost(jobs)}
    outcome["num_updates"], outcome["num_seeds"] = config.base.num_updates, len(config.seeds)
    parts = [f"Prompts, {title}:\n\n{ablation.format_tables(found)}" for title, found in outcomes.items()]
    table = "\n\n".join([*parts, f"Training:\n\n{format_training(outcome['training'])}"])
    hours = outcome["cost"]["cpu_seconds"] / 3600
    say(f"{table}\n\n{len(jobs)} jobs, {hours:.2f} hours of a core")
    write_whole(workdir / "ablation.json", json.dumps(outcome, indent=2) + "\n")
    write_whole(workdir / "ablation.md", table + "\n")
    ablation.draw(outcomes, workdir / "ablation.png")
    draw_curves(curves, workdir / "ablation_curves.png")


def _read_scores(jobs: Sequence[Job], title: str) -> ablation.Scores:
    """Read the scores of all jobs on one set of prompts."""
    found: dict[tuple[str, int], list[dict[str, np.ndarray]]] = {}
    for job in jobs:
        scores = _read_archive(job.folder / _SCORES, prefix=f"{title}/")
        found.setdefault((job.variant, job.num_steps), []).append(scores)
    return {
        key: {name: np.stack([run[name] for run in runs]) for name in runs[0]} for key, runs in found.items()
    }


def _read_archive(file: Path, *, prefix: str) -> dict[str, np.ndarray]:
    """Read the arrays of a job whose names begin with a prefix, by the rest of their names.

    Raises:
        ConfigError: the file is missing or damaged, or has no such arrays.
    """
    try:
        with np.load(file) as archive:
            names = [name for name in archive.files if name.startswith(prefix)]
            arrays = {name.removeprefix(prefix): archive[name] for name in names}
    except Exception as error:  # numpy, zipfile and zlib raise all kinds where a file is damaged
        reason = reason_of(error)
    else:
        if arrays:
            return arrays
        reason = f"it has none of {prefix.removesuffix('/')!r}"
    raise ConfigError(
        f"{str(file)!r}: expected the scores that a job wrote ({reason}); without this file the same command "
        "makes them again"
    )


def _read_cost(jobs: Sequence[Job]) -> dict[str, float]:
    """Add the seconds of all jobs, by the clock and of the processor."""
    names, costs = ("seconds", "cpu_seconds"), []
    for file in (job.folder / _COST for job in jobs):
        cost = _read_json(file)
        for name in names:
            expect(type(cost.get(name)) in (int, float), f"{str(file)!r}: {name}", cost.get(name), "a number")
        costs.append(cost)
    return {name: sum(cost[name] for cost in costs) for name in names}
