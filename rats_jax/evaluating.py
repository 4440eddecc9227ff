"""Judge the student of a run beside its teacher, the untrained model and others: what `evaluate` does."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from rats_jax.diffusion.grid import make_grid
from rats_jax.diffusion.schedule import get_prediction_type
from rats_jax.errors import ConfigError
from rats_jax.evaluation import page, perceptual, plots, tables
from rats_jax.evaluation.contest import SUM, Contest, Judges, draw, judge, make_contest, open_judges
from rats_jax.evaluation.statistics import Interval, paired_bootstrap, win_rates
from rats_jax.evaluation.table import Reference, load_reference
from rats_jax.evaluation.tables import TEACHER
from rats_jax.generating import Origin, TextToImage
from rats_jax.loading import load, load_pretrained
from rats_jax.models.alexnet import load_alexnet
from rats_jax.paths import resolve_path
from rats_jax.runtime.config import expect
from rats_jax.runtime.figures import draw_sheet, save_picture
from rats_jax.runtime.prompts import find_prompts
from rats_jax.types import Params

REPORT = "report.json"
"""The measurements, in the folder of the evaluation."""
OWN_NAMES = (TEACHER, "student", "untrained", "untrained, guided")
"""What no other contestant may be called."""
DIVERSITY, DISTANCE = "diversity", "fid_alexnet"
_NUM_RESAMPLES = 2000
_SHOWN = 8


@dataclass(frozen=True)
class Entry:
    """One row of the report: a model and how it is sampled."""

    contestant: str
    model: TextToImage
    num_steps: int
    guidance_scale: float

    @property
    def nfe(self) -> int:
        """Network evaluations of a picture; guidance takes two a step."""
        return self.num_steps * (1 if self.guidance_scale == 1 else 2)


@dataclass(frozen=True)
class Measured:
    """What was measured of one entry.

    Attributes:
        scores: [P, S] by reward, P prompts and S seeds, and [P, 1] of DIVERSITY.
        distance: FID-AlexNet to the reference, or None.
        shown: [N, H, W, 3], the first seed of the first prompts.
    """

    scores: dict[str, np.ndarray]
    distance: float | None
    shown: np.ndarray


def open_entries(
    student: TextToImage,
    origin: Origin,
    *,
    num_steps: Sequence[int],
    others: Mapping[str, tuple[str, float | None]],
) -> list[Entry]:
    """Line up the contestants, and check that each can be sampled so.

    Args:
        student: of a run.
        origin: of the student.
        num_steps: those with which all but the teacher are judged.
        others: by name, folder or hub id of a pipeline, and its guidance scale or None for its own.

    Returns:
        The teacher, the untrained model as the student and as the teacher is guided, the student, the others.

    Raises:
        ConfigError: a folder that is no pipeline, latents of another shape, a schedule that is not supported,
            or steps that it has not.
    """
    config = origin.config
    untrained = load_pretrained(config, role="student")
    # Weights differ, networks do not: what is compiled for one draws with the other.
    untrained = student.with_unet(untrained.pipeline.unet, guidance_scale=student.guidance_scale)
    teacher = untrained
    if config.teacher.timestep_spacing != config.student.timestep_spacing:
        teacher = load_pretrained(config, role="teacher")
    scale = config.teacher.guidance_scale
    lines: list[tuple[str, TextToImage, float, Sequence[int]]] = [
        (TEACHER, teacher, scale, [config.teacher.num_steps])
    ]
    lines.append(("untrained", untrained, student.guidance_scale, num_steps))
    if scale != student.guidance_scale:
        lines.append(("untrained, guided", untrained, scale, num_steps))
    lines.append(("student", student, student.guidance_scale, num_steps))
    for name, (folder, guidance) in others.items():
        model = load(folder)
        shapes = model.pipeline.latent_shape, student.pipeline.latent_shape
        expected = f"a model with latents {shapes[1]}, it has {shapes[0]}"
        expect(shapes[0] == shapes[1], f"contestant {name}", folder, expected)
        lines.append((name, model, model.guidance_scale if guidance is None else guidance, num_steps))
    for name, model, _, steps in lines:
        for count in steps:
            try:
                make_grid(model.scheduler_config, count)
                get_prediction_type(model.scheduler_config)
            except ValueError as error:
                raise ConfigError(f"num_steps={count}: {name}: {error}") from None
    return [Entry(name, model, count, s) for name, model, s, steps in lines for count in steps]


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
    command: str,
) -> str:
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
        command: that is being run, for the report.

    Returns:
        The overview as Markdown.

    Raises:
        ConfigError: as `load`, `open_judges`, `open_entries` and `_features_of_real`, before anything is
            drawn; as `measure`.
    """
    start = time.perf_counter()
    student = load(workdir, step=step)
    if student.origin is None:
        raise ConfigError(f"workdir={workdir!r}: expected the work directory of a run")
    config = student.origin.config
    entries = open_entries(student, student.origin, num_steps=num_steps, others=others)
    judges, alexnet = open_judges(config), jax.device_put(load_alexnet())
    for name in judges.rewards:
        reserved = SUM, DIVERSITY, DISTANCE
        expect(name not in reserved, "reward", name, f"a name other than {', '.join(reserved)}")
    shape = student.pipeline.latent_shape
    contest = make_contest(
        find_prompts(prompts or config.prompts),
        shape,
        num_prompts=num_prompts,
        num_seeds=num_seeds,
        seed=seed,
    )
    reference = None
    if config.reference and len(contest.texts) > 1:  # one picture has no covariance
        reference = _features_of_real(config.reference, student, alexnet, batch_size)
    measured = measure(entries, contest, judges, alexnet, reference, batch_size=batch_size)
    report = {
        "workdir": workdir,
        "update": student.origin.step,
        "pretrained": config.pretrained,
        "command": command,
        "num_prompts": len(contest.prompts),
        "num_seeds": num_seeds,
        "prompts": prompts or config.prompts,
        "seed": seed,
        "num_resamples": _NUM_RESAMPLES,
        "judge": config.heldout_reward,
        "measures": _describe_measures(config, judges, measured[0]),
        "rows": summarise(entries, measured, seed=seed),
        "seconds": time.perf_counter() - start,
    }
    _write(folder, report, entries, measured, contest)
    return tables.format_overview(report)


def measure(
    entries: Sequence[Entry],
    contest: Contest,
    judges: Judges,
    alexnet: Params,
    reference: np.ndarray | None,
    *,
    batch_size: int,
) -> list[Measured]:
    """Draw and judge the pictures of every entry, one entry after another.

    Args:
        entries: from `open_entries`; those that are sampled alike are drawn once.
        contest: prompts and noise.
        judges: the rewards.
        alexnet: for diversity and distance.
        reference: [M, 256], of the real pictures, or None.
        batch_size: pictures at once.

    Raises:
        ConfigError: scores that are not finite, named by the entry.
    """
    done: dict[Any, Measured] = {}
    diversity = jax.jit(perceptual.lpips_diversity)
    for entry in entries:
        key = id(entry.model), entry.num_steps, entry.guidance_scale
        if key in done:
            continue
        images = draw(
            entry.model,
            contest,
            num_steps=entry.num_steps,
            guidance_scale=entry.guidance_scale,
            batch_size=batch_size,
            title=f"{entry.contestant}, {entry.num_steps} steps",
        )
        scores = judge(judges, contest, images, batch_size=batch_size)
        if images.shape[1] > 1:
            size = max(batch_size // images.shape[1], 1)
            parts = [_filled(images[i : i + size], size) for i in range(0, len(images), size)]
            values = np.concatenate([diversity(alexnet, part) for part in parts])[: len(images)]
            scores[DIVERSITY] = values[:, None]
        for name, values in scores.items():
            if bad := int(np.sum(~np.isfinite(values))):
                row = f"{entry.contestant}, {_count(entry.num_steps)}"
                raise ConfigError(f"{row}: {bad} of {values.size} scores of {name!r} are not finite")
        distance = None
        if reference is not None:
            flat = Reference(images.reshape(-1, *images.shape[2:]), [])
            distance = perceptual.frechet_distance(_features(alexnet, flat, batch_size), reference)
        done[key] = Measured(scores, distance, images[:_SHOWN, 0])
    return [done[id(entry.model), entry.num_steps, entry.guidance_scale] for entry in entries]


def _features_of_real(path: str, model: TextToImage, alexnet: Params, batch_size: int) -> np.ndarray:
    """Read real pictures of the size of the model's, and describe them: [M, 256], M at least 2."""
    decode_fn, decoder = model.pipeline.decode_fn, model.pipeline.decoder
    pixels = jax.eval_shape(decode_fn, decoder, np.zeros((1, *model.pipeline.latent_shape), "f"))
    pictures = load_reference(resolve_path(path), [], pixels.shape[1:])
    expect(len(pictures.images) > 1, "reference", path, "at least two pictures")
    return _features(alexnet, pictures, batch_size)


def _features(alexnet: Params, pictures: Reference, batch_size: int) -> np.ndarray:
    """What the Fréchet distance compares, [N, 256]."""
    images, pool = pictures.images, jax.jit(perceptual.pooled_features)
    parts = [_filled(images[i : i + batch_size], batch_size) for i in range(0, len(images), batch_size)]
    return np.concatenate([pool(alexnet, part) for part in parts])[: len(images)]


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Fill up to a whole batch with repetitions, so that one program serves all."""
    return rows[np.arange(size) % len(rows)]


def summarise(entries: Sequence[Entry], measured: Sequence[Measured], *, seed: int) -> list[dict[str, Any]]:
    """Average, with intervals, each entry beside the teacher.

    Args:
        entries: one of them the teacher.
        measured: of each.
        seed: of the bootstrap.

    Returns:
        The rows of the report.
    """
    settings: Any = {"num_resamples": _NUM_RESAMPLES, "seed": seed}
    names = [str(i) for i in range(len(entries))]
    against = names[[entry.contestant for entry in entries].index(TEACHER)]
    rows: list[dict[str, Any]] = [
        {
            "contestant": entry.contestant,
            "num_steps": entry.num_steps,
            "guidance_scale": entry.guidance_scale,
            "nfe": entry.nfe,
            "measures": {},
        }
        for entry in entries
    ]
    for measure_name in measured[0].scores:
        values = {name: m.scores[measure_name] for name, m in zip(names, measured, strict=True)}
        means = paired_bootstrap(values, against=against, **settings)
        wins: Mapping[str, Interval | None] = dict.fromkeys(names)
        if measure_name != DIVERSITY:
            wins = win_rates(values, against=against, **settings)
        for name, row in zip(names, rows, strict=True):
            mean, difference = means[name]
            row["measures"][measure_name] = {
                **mean._asdict(),
                "difference": _plain(difference),
                "win_rate": _plain(wins[name]),
            }
    for m, row in zip(measured, rows, strict=True):
        if m.distance is not None:
            nothing = {"low": None, "high": None, "difference": None, "win_rate": None}
            row["measures"][DISTANCE] = {"mean": m.distance} | nothing
    return rows


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval._asdict()


def _describe_measures(config: Any, judges: Judges, measured: Measured) -> dict[str, dict[str, Any]]:
    def describe(title: str, role: str, about: str, *, higher: bool = True) -> dict[str, Any]:
        return {"title": title, "role": role, "higher_is_better": higher, "about": about}

    found = {}
    for name in measured.scores:
        if name == SUM:
            parts = " + ".join(f"{weight:g} {reward}" for reward, weight in judges.weights.items())
            found[name] = describe("trained sum", "sum", f"What the student was trained on: {parts}.")
        elif name == DIVERSITY:
            about = (
                "Mean LPIPS (AlexNet, version 0.1) between the pictures of one prompt from different seeds."
            )
            found[name] = describe("diversity", "diversity", about)
        elif name in config.rewards:
            about = f"A reward that the student was trained on ({config.rewards[name].kind})."
            found[name] = describe(name, "trained", about)
        else:
            role = "heldout" if name == config.heldout_reward else "monitored"
            about = f"A reward that no training reads ({config.monitor[name].kind})."
            found[name] = describe(name, role, about)
    if measured.distance is not None:
        about = (
            "Fréchet distance between features of AlexNet, of all pictures drawn and of the real ones; not "
            "comparable with an FID on Inception, nor between sets of other sizes."
        )
        found[DISTANCE] = describe("FID-AlexNet", "reference", about, higher=False)
    return found


def _write(
    folder: Path,
    report: dict[str, Any],
    entries: Sequence[Entry],
    measured: Sequence[Measured],
    contest: Contest,
) -> None:
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    (folder / "report.md").write_text(tables.format_markdown(report), encoding="utf-8")
    arrays: Any = {
        f"{entry.contestant}/{entry.num_steps}/{name}": values
        for entry, m in zip(entries, measured, strict=True)
        for name, values in m.scores.items()
    }
    np.savez(folder / "scores.npz", prompts=np.array(contest.prompts), **arrays)
    drawn = plots.draw_frontiers(report, folder)
    grids = []
    for name, sheet in _draw_grids(entries, measured, contest, judge=report["judge"] or SUM).items():
        file = folder / f"pictures_{'_'.join(name.replace(',', '').split())}.png"
        save_picture(sheet, file)
        grids.append((name, file.read_bytes()))
    frontiers = {key: file.read_bytes() for key, file in drawn.items()}
    (folder / "report.html").write_text(page.format_page(report, frontiers, grids), encoding="utf-8")


def _draw_grids(
    entries: Sequence[Entry], measured: Sequence[Measured], contest: Contest, *, judge: str
) -> dict[str, Image.Image]:
    """Draw a sheet for each contestant: the teacher's pictures above its own at each number of steps."""
    pairs = list(zip(entries, measured, strict=True))
    ((first, best),) = [(entry, m) for entry, m in pairs if entry.contestant == TEACHER]
    names = [name for name in dict.fromkeys(entry.contestant for entry in entries) if name != TEACHER]
    sheets = {}
    for name in names:
        rows = {f"{TEACHER}, {first.num_steps}": best}
        rows |= {_count(entry.num_steps): m for entry, m in pairs if entry.contestant == name}
        captions = {
            title: [f"{s:.2f}" for s in m.scores[judge][:_SHOWN, 0]] if judge in m.scores else [""] * _SHOWN
            for title, m in rows.items()
        }
        images = {title: m.shown for title, m in rows.items()}
        sheets[name] = draw_sheet(images, captions, contest.prompts[:_SHOWN])
    return sheets


def _count(num_steps: int) -> str:
    return f"{num_steps} step{'' if num_steps == 1 else 's'}"
