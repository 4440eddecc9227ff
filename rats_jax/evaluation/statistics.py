"""Bootstrap intervals of means, of differences, of win rates and over training runs.

Contestants draw the same prompts from the same noise, so their difference is known better than either mean:
what makes a prompt easy cancels. The prompt is the unit that is drawn again: the pictures of one prompt are
alike, and S of them are no S independent samples.

All intervals are percentile intervals: from the 2.5th to the 97.5th percentile of the mean of resamples. Of
few prompts they are too narrow: in simulations a nominal 95 % were 90 % with 8 prompts, and 94 % from 32 on.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; for runs and prompts
together Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_PERCENTILES = (2.5, 97.5)


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    values: Mapping[str, np.ndarray], *, against: str, num_resamples: int, seed: int
) -> dict[str, tuple[Interval, Interval | None]]:
    """Say how well the mean of each contestant is known, and its difference to that of `against`.

    Every contestant is judged on the same resamples of prompts; a prompt takes its S pictures with it.

    Args:
        values: by contestant, [P, S]: of P prompts and S seeds of each, in the same order for all.
        against: the contestant that the others are compared with.
        num_resamples: of the prompts; 1000 or more.
        seed: of the resamples.

    Returns:
        By contestant, of its mean over all pictures and of its mean difference to `against` (None for that
        itself); the same for the same seed. With one prompt, nothing is known of others: all three numbers
        of an interval are the same.

    Raises:
        ValueError: values that are not finite, of other shapes or empty, or no contestant `against`.
    """
    checked = _checked(values, against=against)
    weights = _weights(len(checked[against]), num_resamples, np.random.default_rng(seed))

    def interval(pictures: np.ndarray) -> Interval:
        return _interval(pictures.mean(axis=1), weights)

    return {
        who: (interval(own), None if who == against else interval(own - checked[against]))
        for who, own in checked.items()
    }


def win_rates(
    values: Mapping[str, np.ndarray], *, against: str, num_resamples: int, seed: int
) -> dict[str, Interval | None]:
    """Say how often each contestant scores above `against` on the same prompt and noise; a tie is half a win.

    Args:
        values: by contestant, scores [P, S], higher is better.
        against: the contestant that the others are compared with.
        num_resamples: of the prompts.
        seed: of the resamples, the same as those of `paired_bootstrap` with this seed.

    Returns:
        By contestant, of its share of wins in [0, 1], where 0.5 is as good as `against`; None for that.
        As in `paired_bootstrap`, one prompt gives an interval without width, as do all pictures won.

    Raises:
        ValueError: as in `paired_bootstrap`.
    """
    checked = _checked(values, against=against)
    weights = _weights(len(checked[against]), num_resamples, np.random.default_rng(seed))

    def rate(own: np.ndarray) -> Interval:
        return _interval(count_wins(own, checked[against]).mean(axis=1), weights)

    return {who: None if who == against else rate(own) for who, own in checked.items()}


def count_wins(scores: np.ndarray, against: np.ndarray) -> np.ndarray:
    """Tell wins, 1, from losses, 0; a tie is half a win. Scores of two contestants, element by element."""
    return np.where(scores == against, 0.5, scores > against)


def nested_bootstrap(differences: np.ndarray, *, num_resamples: int, seed: int) -> Interval:
    """Say how well a mean difference is known over training runs as well as over prompts.

    Runs and prompts are drawn independently of each other; a pair of them that is drawn twice counts twice.

    Args:
        differences: [R, P]: of R training runs of one setting, which differ in their seed, on the same P
            prompts.
        num_resamples: of both.
        seed: of the resamples.

    Returns:
        The mean over all, and its interval. Of few runs it is too narrow: a bootstrap of R values sees the
        fraction (R - 1) / R of their variance, and with one run nothing of it at all. Where runs differ more
        than prompts do, a nominal 95 % were 64 % in simulations with 2 runs, 79 % with 3, 88 % with 5 and
        93 % with 10.

    Raises:
        ValueError: not [R, P] with R and P at least 1, or numbers that are not finite.
    """
    differences = _finite("differences", differences)
    runs, prompts = _nested_weights(*differences.shape, num_resamples, seed)
    return _summarise(differences.mean(), np.sum((runs @ differences) * prompts, axis=1))


def _checked(values: Mapping[str, np.ndarray], *, against: str) -> dict[str, np.ndarray]:
    """Return float64 arrays of one shape [P, S], or raise what is wrong with them."""
    if against not in values:
        raise ValueError(f"against={against!r}: expected one of {sorted(values)}")
    checked = {who: _finite(who, own) for who, own in values.items()}
    shape = checked[against].shape
    for who, own in checked.items():
        if own.shape != shape:
            raise ValueError(f"{who!r} has values {own.shape}, expected {shape}, those of {against!r}")
    return checked


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{name!r} has values {values.shape}, expected two dimensions of at least 1")
    if bad := int(np.sum(~np.isfinite(values))):
        raise ValueError(f"{name!r} has {bad} of {values.size} values that are not finite")
    return values


def _weights(size: int, num_resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw `size` of `size` things with replacement: the share of each, [num_resamples, size]."""
    if num_resamples < 1:
        raise ValueError(f"num_resamples={num_resamples}: expected at least 1")
    return generator.multinomial(size, np.full(size, 1.0 / size), num_resamples) / size


@functools.lru_cache(maxsize=2)  # a comparison asks for the same ones for each measure of each variant
def _nested_weights(
    num_runs: int, num_prompts: int, num_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return _weights(num_runs, num_resamples, generator), _weights(num_prompts, num_resamples, generator)


def _interval(rows: np.ndarray, weights: np.ndarray) -> Interval:
    """Interval of the mean of rows [P], one a prompt, under weights [num_resamples, P]."""
    return _summarise(rows.mean(), weights @ rows)


def _summarise(mean: np.floating, resampled: np.ndarray) -> Interval:
    low, high = np.percentile(resampled, _PERCENTILES)
    return Interval(float(mean), float(low), float(high))
