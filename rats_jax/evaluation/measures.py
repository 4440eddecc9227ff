"""Measures of each row of a report: rewards, diversity, distance to real pictures; their intervals."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from rats_jax.data.batches import map_batches
from rats_jax.data.frames import choose_frames
from rats_jax.errors import ConfigError, expect
from rats_jax.evaluation import guards, perceptual
from rats_jax.evaluation.contestants import Entry
from rats_jax.evaluation.fixed_set import SUM, Contest, Judges, draw, judge
from rats_jax.evaluation.reference import Reference, load_reference
from rats_jax.evaluation.statistics import Interval, paired_bootstrap, win_rates
from rats_jax.paths import resolve_path
from rats_jax.report.tables import TEACHER, count_steps
from rats_jax.student.model import Generator
from rats_jax.types import Params
from rats_jax.weights.lpips_file import load_alexnet

DIVERSITY, DISTANCE, MOTION = "diversity", "fid_alexnet", "motion"
"""The measures that are no reward, by their keys."""
NUM_RESAMPLES = 2000
"""Of the bootstrap."""
_MOMENTS = 4  # of a video, at which it is compared with others
SHOWN = 8
"""Pictures of each row that a report shows."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one entry.

    Attributes:
        scores: [P, S] by reward, P prompts and S seeds, of videos also of MOTION, and [P, 1] of DIVERSITY.
        distance: FID-AlexNet to the reference, or None.
        shown: [N, H, W, 3] or [N, T, H, W, 3], the first seed of the first prompts.
    """

    scores: dict[str, np.ndarray]
    distance: float | None
    shown: np.ndarray


def open_alexnet() -> Params:
    """Put AlexNet's weights on the devices, for diversity and distance."""
    return jax.device_put(load_alexnet())


def measure(
    entries: Sequence[Entry],
    contest: Contest,
    judges: Judges,
    alexnet: Params,
    reference: np.ndarray | None,
    *,
    batch_size: int,
    progress: bool = True,
    keep: Callable[[Entry, np.ndarray], None] = lambda entry, images: None,
) -> list[Measured]:
    """Draw and judge the pictures of every entry, one entry after another.

    Args:
        entries: from `open_entries`; those that are sampled alike are drawn once.
        contest: prompts and noise.
        judges: the rewards.
        alexnet: for diversity and distance.
        reference: [M, 256], of the real pictures, or None.
        batch_size: pictures at once.
        progress: whether each entry shows a bar.
        keep: gets what each entry has drawn, [P, S, H, W, 3] or [P, S, T, H, W, 3] in [0, 1]; of those that
            are sampled alike, the first.

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
            title=f"{entry.contestant}, {entry.num_steps} steps" if progress else "",
        )
        keep(entry, images)
        scores = judge(judges, contest, images, batch_size=batch_size)
        if (motion := guards.measure_motion(images.reshape(-1, *images.shape[2:]))) is not None:
            scores[MOTION] = motion.reshape(images.shape[:2])
        if images.shape[1] > 1:
            sets = _frames_of_sets(images)
            size = max(batch_size // images.shape[1], 1)
            values = map_batches(functools.partial(diversity, alexnet), sets, size)
            scores[DIVERSITY] = values.reshape(len(images), -1).mean(axis=1, keepdims=True)
        for name, values in scores.items():
            if bad := int(np.sum(~np.isfinite(values))):
                row = f"{entry.contestant}, {count_steps(entry.num_steps)}"
                raise ConfigError(f"{row}: {bad} of {values.size} scores of {name!r} are not finite")
        distance = None
        if reference is not None:
            flat = Reference(images.reshape(-1, *images.shape[2:]), [])
            distance = perceptual.frechet_distance(_features(alexnet, flat, batch_size), reference)
        done[key] = Measured(scores, distance, images[:SHOWN, 0])
    return [done[id(entry.model), entry.num_steps, entry.guidance_scale] for entry in entries]


def _frames_of_sets(images: np.ndarray) -> np.ndarray:
    """Set beside each other what belongs together: pictures of a prompt, or its videos at one moment.

    [P, S, H, W, 3] as it is; [P, S, T, H, W, 3] -> [P * n, S, H, W, 3], n of the moments.
    """
    if images.ndim == 5:
        return images
    moments = choose_frames(images.shape[2], min(images.shape[2], _MOMENTS))
    frames = np.moveaxis(images[:, :, moments], 2, 1)
    return frames.reshape(-1, *frames.shape[2:])


def features_of_real(path: str, model: Generator, alexnet: Params, batch_size: int) -> np.ndarray:
    """Read real pictures of the size of the model's, and describe them: [M, 256], M at least 2."""
    pictures = load_reference(resolve_path(path), [], model.pipeline.image_shape())
    expect(len(pictures.images) > 1, "reference", path, "at least two pictures")
    return _features(alexnet, pictures, batch_size)


def _features(alexnet: Params, pictures: Reference, batch_size: int) -> np.ndarray:
    """What the Fréchet distance compares, [N, 256]."""
    pool = functools.partial(jax.jit(perceptual.pooled_features), alexnet)
    return map_batches(pool, pictures.images, batch_size)


def summarise(entries: Sequence[Entry], measured: Sequence[Measured], *, seed: int) -> list[dict[str, Any]]:
    """Average, with intervals, each entry beside the teacher.

    Args:
        entries: one of them the teacher.
        measured: of each.
        seed: of the bootstrap.

    Returns:
        The rows of the report.
    """
    settings: Any = {"num_resamples": NUM_RESAMPLES, "seed": seed}
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
        if measure_name not in (DIVERSITY, MOTION):
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


def describe_measures(config: Any, judges: Judges, measured: Measured) -> dict[str, dict[str, Any]]:
    """Give title, role, meaning and direction (None for neither) of each measure of an entry, by its key."""

    def describe(title: str, role: str, about: str, *, higher: bool | None = True) -> dict[str, Any]:
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
        elif name == MOTION:
            about = (
                "Mean absolute difference of neighbouring frames; a video that stands still has 0, one that "
                "flickers has much: neither more nor less is better."
            )
            found[name] = describe("motion", "motion", about, higher=None)
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
