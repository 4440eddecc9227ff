"""Scores of a picture by the rewards of a run that can judge its prompt."""

from __future__ import annotations

import numpy as np

from rats_jax.errors import ConfigError
from rats_jax.evaluation.fixed_set import Contest, Judges, judge


class Scorer:
    """Rewards of a run, of which each prompt is judged by those that accept it.

    Args:
        judges: all of them.
    """

    def __init__(self, judges: Judges):
        self._all = judges
        self._some: dict[tuple[str, ...], Judges] = {tuple(judges.rewards): judges}

    def score(self, contest: Contest, images: np.ndarray) -> tuple[dict[str, float], list[str]]:
        """Score one picture or video.

        Args:
            contest: of one prompt and one noise.
            images: [1, 1, H, W, 3] or [1, 1, T, H, W, 3] float32 in [0, 1].

        Returns:
            Scores by reward, the trained sum first if all that it is of accept the prompt; and a line about
            each reward that refuses it, as one of a closed vocabulary does.
        """
        accepting, refused = [], []
        for name, reward in self._all.rewards.items():
            try:
                reward.prepare(contest.texts)
                accepting.append(name)
            except ConfigError as error:
                refused.append(f"no score of {name}: {error}")
        if not accepting:
            return {}, refused
        scores = judge(self._choose(tuple(accepting)), contest, images, batch_size=1)
        return {name: float(values[0, 0]) for name, values in scores.items()}, refused

    def _choose(self, names: tuple[str, ...]) -> Judges:
        """Give the rewards of these names; their program is compiled once."""
        if names not in self._some:
            self._some[names] = self._all.only(names)
        return self._some[names]
