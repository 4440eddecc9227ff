"""Plan of a comparison: every student to train and every model to judge, their configs checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rats_jax.ablation.table import TEACHER, UNTRAINED
from rats_jax.config.fields import flatten
from rats_jax.config.together import validate, validate_paths
from rats_jax.errors import ConfigError, expect, expect_known
from rats_jax.training.teacher import describe
from rats_jax.workdir import saved_config


class Job(NamedTuple):
    """One student to train, or one model that is not trained.

    Attributes:
        variant: a name of the config's, TEACHER or UNTRAINED.
        num_steps: of the sampler.
        seed: of training; -1 if there is none.
        folder: where its scores go; the work directory of the run, if it is one.
        config: of the run, as JSON.
    """

    variant: str
    num_steps: int
    seed: int
    folder: Path
    config: str


def plan(config: Any, workdir: Path) -> list[Job]:
    """List all that a comparison needs, and check every config.

    Args:
        config: fields as in configs/emoji_ablation.py.
        workdir: the folder of the comparison.

    Returns:
        The jobs: teacher, untrained model, then variant by variant.

    Raises:
        ConfigError: names the variant and what is wrong with it.
    """
    expect(bool(config.variants), "variants", config.variants, "at least one")
    expect(bool(config.base.heldout_reward), "base.heldout_reward", "", "the name of a reward in `monitor`")
    for field in ("student_steps", "seeds"):
        values = tuple(config[field])
        expect(bool(values) and len(set(values)) == len(values), field, values, "different numbers")
    names = [variant[0] for variant in config.variants]
    expect(len({_slug(name) for name in names}) == len(names), "variants", names, "names that differ")
    sets = tuple(config.evaluation.prompts)
    for title, _, *steps in sets:
        known = len(steps) <= 1 and all(1 <= count <= config.base.teacher.num_steps for count in steps)
        expected = "(title, file) or (title, file, steps), steps of the teacher's at most"
        expect(known, f"evaluation.prompts: {title!r}", steps, expected)
    titles = [row[0] for row in sets]
    expect(len(set(titles)) == len(titles) > 0, "evaluation.prompts", titles, "titles that differ")
    jobs = [_job(config, workdir, TEACHER, {}, config.base.teacher.num_steps, None)]
    jobs += [_job(config, workdir, UNTRAINED, {}, steps, None) for steps in config.student_steps]
    for name, changes, *only in config.variants:
        wanted = only[0] if only else config.student_steps
        known = set(wanted) <= set(config.student_steps)
        expect(known, f"variants: {name!r}", wanted, f"some of student_steps={tuple(config.student_steps)}")
        # The others are compared with the first.
        known = name != names[0] or set(wanted) == set(config.student_steps)
        expect(known, f"variants: {name!r}", wanted, f"all of student_steps={tuple(config.student_steps)}")
        for steps in wanted:
            jobs += [_job(config, workdir, name, changes, steps, seed) for seed in config.seeds]
    return jobs


def _job(
    config: Any, workdir: Path, variant: str, changes: Mapping[str, Any], num_steps: int, seed: int | None
) -> Job:
    run: Any = ConfigDict(saved_config.from_json(saved_config.to_json(config.base)))
    for field, value in changes.items():
        expect_known(field, flatten(run), f"variants: {variant!r}: {field}", value, "a field")
        run.update_from_flattened_dict({field: value})
    run.student.num_steps = num_steps
    run.student.reward_gradient_steps = min(run.student.reward_gradient_steps, num_steps)
    folder = workdir / _slug(variant) / f"steps_{num_steps}"
    if seed is None:
        run.horizon.weights = ()  # of as many steps as are trained; this one only draws
    else:
        run.seed = seed
        folder = folder / f"seed_{seed}"
    try:
        validate(run)
        validate_paths(run)
    except ConfigError as error:
        raise ConfigError(f"variant {variant!r} with {num_steps} steps: {error}") from None
    if seed is not None and run.teacher.ema_decay == 1:  # runs share what the same frozen teacher does
        of = json.dumps(describe(run, ()), sort_keys=True)
        shared = f"steps_{num_steps}-seed_{seed}-{hashlib.sha256(of.encode()).hexdigest()[:8]}"
        run.teacher.targets = str(workdir / "targets" / shared)
    return Job(variant, num_steps, -1 if seed is None else seed, folder, saved_config.to_json(run))


def _slug(name: str) -> str:
    return "_".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split())
