"""Evaluation of a run's student beside its teacher, the untrained model and others."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rats_jax.data.prompts import find_prompts
from rats_jax.errors import ConfigError, expect
from rats_jax.evaluation.contestants import Entry, open_entries
from rats_jax.evaluation.fixed_set import SUM, Contest, make_contest, open_judges
from rats_jax.evaluation.measures import (
    DISTANCE,
    DIVERSITY,
    MOTION,
    NUM_RESAMPLES,
    SHOWN,
    Measured,
    describe_measures,
    features_of_real,
    measure,
    open_alexnet,
    summarise,
)
from rats_jax.files import write_whole
from rats_jax.report import mp4, page, plots, tables
from rats_jax.report.figures import Sheet, draw_sheet, save_result, save_sheet
from rats_jax.report.tables import TEACHER, count_steps
from rats_jax.student.load import load

REPORT = "report.json"
"""The measurements, in the folder of the evaluation."""


def evaluate(
    workdir: str,
    folder: Path,
    *,
    step: int | None,
    num_steps: Sequence[int],
    num_prompts: int,
    num_seeds: int,
    prompts: str,
    others: Mapping[str, tuple[str, float | None]],
    seed: int,
    batch_size: int,
    dtype: str,
    command: str,
    say: Callable[[str], None],
    vbench: bool = False,
) -> None:
    """Judge all contestants and write the report.

    Args:
        workdir: of the run.
        folder: an empty one; gets report.json, scores.npz, report.md, report.html and the pictures of it.
        step: of the checkpoint; None is the newest.
        num_steps: those with which all but the teacher are judged.
        num_prompts, num_seeds: pictures are drawn of so many prompts, from so many noises each.
        prompts: file to choose them from; empty for the run's.
        others: as of `open_entries`.
        seed: of the choice of prompts and of the noise.
        batch_size: pictures at once.
        dtype: what the networks of all contestants compute in, 'float32' or 'bfloat16'.
        command: that is being run, for the report.
        say: gets the overview as Markdown, before the report is written: a full disk takes nothing of it.
        vbench: whether the folder gets all videos too, vbench/CONTESTANT_N_steps/PROMPT-INDEX.mp4.

    Raises:
        ConfigError: as `load`, `open_judges`, `open_entries` and `features_of_real`, or MP4s of pictures or
            of prompts that cannot name a file for VBench, before anything is drawn; as `measure`.
    """
    start = time.perf_counter()
    student = load(workdir, step=step, dtype=dtype)
    if student.origin is None:
        raise ConfigError(f"workdir={workdir!r}: expected the work directory of a run")
    config = student.origin.config
    entries = open_entries(student, student.origin, num_steps=num_steps, others=others, dtype=dtype)
    judges, alexnet = open_judges(config, videos=student.makes_videos), open_alexnet()
    for name in judges.rewards:
        reserved = SUM, DIVERSITY, DISTANCE, MOTION
        expect(name not in reserved, "reward", name, f"a name other than {', '.join(reserved)}")
    shape = student.pipeline.latent_shape
    contest = make_contest(
        find_prompts(prompts or config.prompts),
        shape,
        num_prompts=num_prompts,
        num_seeds=num_seeds,
        seed=seed,
    )
    if vbench:
        expect(student.makes_videos, "vbench", vbench, "False: this model makes pictures")
        mp4.expect_mp4("vbench", vbench)
        mp4.expect_vbench_names(contest.prompts, num_seeds)
    reference = None
    if config.reference and len(contest.texts) > 1:  # one picture has no covariance
        reference = features_of_real(config.reference, student, alexnet, batch_size)

    def keep(entry: Entry, videos: np.ndarray) -> None:
        if vbench:
            _write_vbench(
                folder / mp4.VBENCH / _file_name(entry.contestant, entry.num_steps), contest, videos
            )

    measured = measure(entries, contest, judges, alexnet, reference, batch_size=batch_size, keep=keep)
    report = {
        "workdir": workdir,
        "update": student.origin.step,
        "pretrained": config.pretrained,
        "command": command,
        "num_prompts": len(contest.prompts),
        "num_seeds": num_seeds,
        "prompts": prompts or config.prompts,
        "seed": seed,
        "num_resamples": NUM_RESAMPLES,
        "judge": config.heldout_reward,
        "measures": describe_measures(config, judges, measured[0]),
        "rows": summarise(entries, measured, seed=seed),
        "seconds": time.perf_counter() - start,
    }
    say(tables.format_overview(report))
    _write(folder, report, entries, measured, contest)


def _file_name(contestant: str, *num_steps: int) -> str:
    """Name a file or folder after a contestant, and after its steps."""
    return "_".join([*contestant.replace(",", "").split(), *(f"{count}_steps" for count in num_steps)])


def _write_vbench(folder: Path, contest: Contest, videos: np.ndarray) -> None:
    """Write videos [P, S, T, H, W, 3] as VBench reads them, into a folder that is not there yet."""
    folder.mkdir(parents=True)
    for prompt, of_prompt in zip(contest.prompts, videos, strict=True):
        for index, video in enumerate(of_prompt):
            save_result(video, folder / mp4.vbench_name(prompt, index), {"prompt": prompt})


def _write(
    folder: Path,
    report: dict[str, Any],
    entries: Sequence[Entry],
    measured: Sequence[Measured],
    contest: Contest,
) -> None:
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    write_whole(folder / "report.md", tables.format_markdown(report))
    arrays: Any = {
        f"{entry.contestant}/{entry.num_steps}/{name}": values
        for entry, m in zip(entries, measured, strict=True)
        for name, values in m.scores.items()
    }
    np.savez(folder / "scores.npz", prompts=np.array(contest.prompts), **arrays)
    drawn = plots.draw_frontiers(report, folder)
    grids = []
    for name, sheet in _draw_grids(entries, measured, contest, judge=report["judge"] or SUM).items():
        file = folder / f"pictures_{_file_name(name)}"
        grids.append((name, save_sheet(sheet, file)[-1].read_bytes()))
    frontiers = {key: file.read_bytes() for key, file in drawn.items()}
    write_whole(folder / "report.html", page.format_page(report, frontiers, grids))


def _draw_grids(
    entries: Sequence[Entry], measured: Sequence[Measured], contest: Contest, *, judge: str
) -> dict[str, Sheet]:
    """Draw a sheet for each contestant: the teacher's pictures above its own at each number of steps."""
    pairs = list(zip(entries, measured, strict=True))
    ((first, best),) = [(entry, m) for entry, m in pairs if entry.contestant == TEACHER]
    names = [name for name in dict.fromkeys(entry.contestant for entry in entries) if name != TEACHER]
    sheets = {}
    for name in names:
        rows = {f"{TEACHER}, {first.num_steps}": best}
        rows |= {count_steps(entry.num_steps): m for entry, m in pairs if entry.contestant == name}
        captions = {
            title: [f"{s:.2f}" for s in m.scores[judge][:SHOWN, 0]] if judge in m.scores else [""] * SHOWN
            for title, m in rows.items()
        }
        images = {title: m.shown for title, m in rows.items()}
        sheets[name] = draw_sheet(images, captions, contest.prompts[:SHOWN])
    return sheets
