"""Stage of a demonstration: the models of a run draw one prompt from one noise, and are timed."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from absl import logging as absl_logging

from rats_jax.data.prompts import find_prompts
from rats_jax.demonstration.scores import Scorer
from rats_jax.errors import ConfigError, expect
from rats_jax.evaluation.contestants import Entry, open_entries
from rats_jax.evaluation.fixed_set import Contest, draw, open_judges
from rats_jax.report.tables import TEACHER
from rats_jax.student import arguments
from rats_jax.student.load import load

_SHOWN = (TEACHER, "untrained", "student")
_MOST_LETTERS = 2000  # of a prompt; encoders read a few hundred at most


@dataclass(frozen=True)
class Drawn:
    """What one model drew, and what that cost.

    Attributes:
        name: of the model.
        result: [H, W, 3] or [T, H, W, 3] float32 in [0, 1].
        scores: by reward, the trained sum first; empty where no rewards are known. They may be nan.
        notes: lines about this prompt: that its end was cut, or a reward that cannot judge it.
        num_steps, guidance_scale: of its sampler.
        nfe: network evaluations.
        milliseconds: from the prompt to the finished picture on the host, compilation not among them.
        compile_seconds: what compilation took before; 0 where the program was there.
    """

    name: str
    result: np.ndarray
    scores: dict[str, float]
    notes: tuple[str, ...]
    num_steps: int
    guidance_scale: float
    nfe: int
    milliseconds: float
    compile_seconds: float


@dataclass(frozen=True, eq=False)
class Stage:
    """Models that draw side by side.

    Attributes:
        entries: teacher, untrained model and student of a run, or one model; the last of them is the one
            whose steps and guidance are proposed.
        scorer: the run's rewards, or None.
        prompts: of the run, to choose from.
        clock: gives the time in seconds.
    """

    entries: tuple[Entry, ...]
    scorer: Scorer | None
    prompts: list[str]
    clock: Callable[[], float] = time.perf_counter
    _lock: Any = field(default_factory=threading.Lock)
    _warm: set[tuple[str, int]] = field(default_factory=set)
    _last: dict[str, tuple[Any, Drawn]] = field(default_factory=dict)
    _said: dict[str, list[str]] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """What the milliseconds are of, as 'cpu' or 'NVIDIA H100'."""
        devices = jax.devices()
        return devices[0].device_kind + (f", {len(devices)} of them" if len(devices) > 1 else "")

    @property
    def proposed(self) -> Entry:
        """The entry whose steps and guidance are proposed: the student."""
        return self.entries[-1]

    def draw(self, prompt: str, *, seed: int, num_steps: int, guidance_scale: float) -> list[Drawn]:
        """Draw a prompt with every model from the noise of one seed; one call at a time uses the devices.

        The teacher keeps its own steps and guidance, which it taught with. A model that is asked for what it
        drew last gives that again, with the milliseconds that it took then.

        Args:
            prompt: a text of at most 2000 letters.
            seed: of the noise, 0 .. 2**32 - 1.
            num_steps, guidance_scale: of all but the teacher.

        Returns:
            In the order of the entries.

        Raises:
            ConfigError: as the models do when they are called, or the prompt is too long.
        """
        (text,) = arguments.prompts(prompt)
        expect(len(text) <= _MOST_LETTERS, "prompt", f"{text[:20]}...", f"at most {_MOST_LETTERS} letters")
        steps = arguments.integer(num_steps, "num_steps", least=1)
        scale = arguments.number(guidance_scale, "guidance_scale", least=1, note=" (1 is no guidance)")
        own: Any = {"num_steps": steps, "guidance_scale": scale}
        entries = [e if e.contestant == TEACHER else dataclasses.replace(e, **own) for e in self.entries]
        with self._lock:
            contest = Contest([text], self.proposed.model.make_noise([seed])[None])
            return [self._draw(entry, contest, key=(text, seed)) for entry in entries]

    def _draw(self, entry: Entry, contest: Contest, *, key: Any) -> Drawn:
        key = (*key, entry.num_steps, entry.guidance_scale)
        known, drawn = self._last.get(entry.contestant, (None, None))
        if drawn is not None and known == key:
            return dataclasses.replace(drawn, compile_seconds=0.0)
        with _warnings() as notes:
            seconds = self._warm_up(entry, contest)
            start = self.clock()
            images = _draw_one(entry, contest)
            milliseconds = 1e3 * (self.clock() - start)
            scores, refused = ({}, []) if self.scorer is None else self.scorer.score(contest, images)
        said = self._said.setdefault(key[0], [])  # what reads prompts keeps them, and warns once of each
        said += notes
        drawn = Drawn(
            entry.contestant,
            images[0, 0],
            scores,
            tuple(dict.fromkeys([*said, *refused])),
            entry.num_steps,
            entry.guidance_scale,
            entry.nfe,
            milliseconds,
            seconds,
        )
        self._last[entry.contestant] = key, drawn
        return drawn

    def _warm_up(self, entry: Entry, contest: Contest) -> float:
        """Compile and run once what is timed next; the seconds of the compilation, 0 where that was done."""
        if (entry.contestant, entry.num_steps) in self._warm:
            return 0.0
        start = self.clock()
        entry.model.compile(num_steps=entry.num_steps)
        seconds = self.clock() - start
        _draw_one(entry, contest)
        self._warm.add((entry.contestant, entry.num_steps))
        return seconds


class _Listener(logging.Handler):
    """A list of the warnings of one thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        if record.thread == self._thread:
            self.said.append(record.getMessage())


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """List what the package warns of meanwhile, in this thread."""
    listener = _Listener()
    logger = absl_logging.get_absl_logger()
    logger.addHandler(listener)
    try:
        yield listener.said
    finally:
        logger.removeHandler(listener)


def _draw_one(entry: Entry, contest: Contest) -> np.ndarray:
    """Draw [1, 1, H, W, 3] or [1, 1, T, H, W, 3], on the host, and so finished."""
    return draw(
        entry.model,
        contest,
        num_steps=entry.num_steps,
        guidance_scale=entry.guidance_scale,
        batch_size=1,
    )


def open_stage(path: str, *, step: int | None, dtype: str) -> Stage:
    """Load what draws: the three models and the rewards of a run, or one model without rewards.

    Args:
        path: work directory of a run, or folder or hub id of a pipeline, an exported student among them.
        step: of a run, the checkpoint; None is the newest.
        dtype: what the networks compute in, 'float32' or 'bfloat16'; rewards compute in float32.

    Raises:
        ConfigError: as `load`, `open_entries` and `open_judges`.
    """
    model = load(path, step=step, dtype=dtype)
    if model.origin is None:
        alone = Entry("model", model, model.num_steps, model.guidance_scale)
        return Stage((alone,), None, [])
    entries = open_entries(model, model.origin, num_steps=[model.num_steps], others={}, dtype=dtype)
    by_name = {entry.contestant: entry for entry in entries}
    scorer = Scorer(open_judges(model.origin.config, videos=model.makes_videos))
    return Stage(tuple(by_name[name] for name in _SHOWN), scorer, _prompts(model.origin.config))


def _prompts(config: Any) -> list[str]:
    """List the run's prompts; a run whose prompts are elsewhere draws others as well."""
    try:
        return list(dict.fromkeys(find_prompts(config.prompts)))
    except ConfigError as error:
        absl_logging.warning("no prompts to choose from: %s", error)
        return []


def describe(drawn: Drawn, *, device: str) -> str:
    """Write rewards, evaluations and milliseconds as lines of Markdown.

    Args:
        drawn: by a model.
        device: that it was drawn on.
    """
    steps = f"{drawn.num_steps} step{'s' * (drawn.num_steps > 1)}, guidance {drawn.guidance_scale:g}"
    scores = [
        f"{name.replace('_', ' ')} **{value:.3f}**" if math.isfinite(value) else f"{name} is not finite"
        for name, value in drawn.scores.items()
    ]
    cost = f"{drawn.nfe} evaluation{'s' * (drawn.nfe > 1)}, **{drawn.milliseconds:.0f} ms** on {device}"
    compiled = [f"compiled first, in {drawn.compile_seconds:.1f} s"] * (drawn.compile_seconds >= 0.05)
    return "  \n".join([steps, *scores, cost, *compiled])
