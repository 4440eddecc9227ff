"""Sheets of samples that a run draws as it goes: teacher, untrained and student side by side, measured."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.evaluation import guards
from rats_jax.method.moments import init_moments, update_moments
from rats_jax.report import figures
from rats_jax.training.program import Program
from rats_jax.training.table import EvaluationSet, Pictures, render_set
from rats_jax.types import Moments, Params, TrainState

_GUARDS = {name: jax.jit(guard) for name, guard in guards.PICTURE_GUARDS.items()}
_DIVERSITY = jax.jit(guards.diversity)
_ORDER = ("teacher", "untrained", "student")
_SEEDS = 4


class Sheets:
    """Draws the set of the sheets; rows that do not change are drawn once.

    Args:
        program: of the run.
        count: pictures on a sheet.
    """

    def __init__(self, program: Program, *, count: int):
        self._program, self._experiment, self._count = program, program.experiment, count

    def draw(self, state: TrainState) -> tuple[figures.Sheet, dict[str, float]]:
        """Draw teacher, untrained and student, and measure them.

        Args:
            state: of the run.

        Returns:
            The sheet, with reward and gate under each picture, and a record of the whole set: rewards,
            monitored rewards and guards, of student and teacher, and the student's diversity. Normalised
            rewards are in deviations of the untrained pictures': running ones move between sheets.
        """
        rows = dict(self._fixed)
        if "teacher" not in rows:
            rows["teacher"] = self._render("teacher", state.teacher)
        rows["student"] = self._render("student", state.drawn)
        rewards = self._combine(rows, self._unit(state))
        images = {name: rows[name].images[: self._count] for name in _ORDER}
        prompts = self._program.sheet_set.prompts[: self._count]
        sheet = figures.draw_sheet(images, self._captions(rows, rewards, state), prompts)
        record = {f"reward/{name}": float(np.mean(rewards[name])) for name in _ORDER}
        for who in ("student", "teacher"):
            record |= {f"{name}/{who}": value for name, value in self._measure(rows[who]).items()}
        return sheet, record | {"guard/diversity/student": self._measure_diversity(state.drawn)}

    @functools.cached_property
    def _fixed(self) -> dict[str, Pictures]:
        """What every sheet shows again: the untrained model, and a teacher that stays as it was."""
        untrained = self._program.pretrained
        rows = {"untrained": self._render("student", untrained.student)}
        if not self._experiment.teacher_moves:
            rows["teacher"] = self._render("teacher", untrained.teacher)
        return rows

    def _combine(self, rows: Mapping[str, Pictures], moments: Mapping[str, Moments]) -> dict[str, np.ndarray]:
        combine_fn = self._experiment.objective.combine_fn
        return {name: np.asarray(combine_fn(rows[name].scores, moments)) for name in _ORDER}

    def _unit(self, state: TrainState) -> dict[str, Moments]:
        """Give moments of the untrained pictures' scores, of those rewards that are normalised."""
        scores = self._fixed["untrained"].scores
        return {name: update_moments(init_moments(), scores[name], decay=0.0) for name in state.rewards}

    def _captions(
        self, rows: Mapping[str, Pictures], rewards: Mapping[str, np.ndarray], state: TrainState
    ) -> dict[str, list[str]]:
        objective, captions = self._experiment.objective, {}
        name, started = objective.gate_reward, int(state.step) > 0
        if name:
            judged = {who: rows[who].scores[name] for who in _ORDER}
        else:
            judged = self._combine(rows, state.rewards) if started else rewards
        judged, gap = jax.tree.map(jnp.asarray, judged), state.gap
        if not started:  # no running moments yet: those of the sheet itself
            gap = update_moments(init_moments(), judged["teacher"] - judged["student"], decay=0.0)
        for who in _ORDER:
            gate, _ = objective.gate_fn(judged["teacher"], judged[who], gap)
            pairs = zip(rewards[who], np.asarray(gate), strict=True)
            captions[who] = [f"{r:.3f}  gate {g:.2f}" for r, g in pairs]
        return captions | {"teacher": [f"{r:.3f}" for r in rewards["teacher"]]}

    def _measure(self, pictures: Pictures) -> dict[str, float]:
        measured = {f"monitor/{name}": pictures.scores[name] for name in self._experiment.monitors}
        images = pictures.images
        if (motion := guards.measure_motion(images)) is not None:
            measured["guard/motion"] = motion
        images = images.reshape(-1, *images.shape[-3:])  # of a video each frame
        measured |= {f"guard/{name}": guard(images) for name, guard in _GUARDS.items()}
        measured["guard/latent_std"] = np.std(pictures.latents)
        measured["guard/latent_mean_square"] = np.mean(np.square(pictures.latents))
        return {name: float(np.mean(values)) for name, values in measured.items()}

    def _measure_diversity(self, student: Params) -> float:
        """Draw several seeds of a few prompts with the student: how much its pictures still differ."""
        size, prompts = self._program.sheet_set.batch_size, self._program.sheet_set.prompts
        chosen = [prompt for prompt in prompts[: max(size // _SEEDS, 1)] for _ in range(_SEEDS)]
        shape = (len(chosen), *self._experiment.pipeline.latent_shape)
        noise = np.asarray(jax.random.normal(jax.random.key(0), shape, jnp.float32))
        images = self._render("student", student, EvaluationSet(chosen, noise, size)).images
        tall = images.reshape(len(images), -1, *images.shape[-2:])  # frames of a video below each other
        return float(np.mean(_DIVERSITY(tall.reshape(-1, _SEEDS, *tall.shape[1:]))))

    def _render(self, role: str, params: Params, chosen: EvaluationSet | None = None) -> Pictures:
        chosen, render = chosen or self._program.sheet_set, self._program.render_fns[role]
        return render_set(self._experiment, render, params, chosen)
