"""Comparison of two sides: differences in a unit, their tolerances, the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rats_jax.report.tables import Cell, Table, markdown


class Tolerance(NamedTuple):
    """How large differences may be, in their unit: the largest of all numbers, and their mean."""

    largest: float
    mean: float


class Check(NamedTuple):
    """One comparison.

    Attributes:
        part: what was computed, as 'transformer, timestep 500'.
        unit: of the differences.
        found: the largest and the mean difference; nan where there is none.
        tolerance: that they may not be above.
        fault: what keeps the sides from being compared, or ''.
    """

    part: str
    unit: str
    found: Tolerance
    tolerance: Tolerance
    fault: str = ""

    @property
    def holds(self) -> bool:
        """Whether the two sides are the same, as far as their rounding lets one tell."""
        pairs = zip(self.found, self.tolerance, strict=True)
        return not self.fault and all(found <= allowed for found, allowed in pairs)


NETWORKS = {"float32": Tolerance(1e-2, 2e-4), "bfloat16": Tolerance(2.0, 0.1)}
"""Of the outputs of a network, by the dtype of both sides, in standard deviations of PyTorch's output."""
PICTURES = {"float32": Tolerance(1.0, 0.1), "bfloat16": Tolerance(255.0, 8.0)}
"""Of a sample, whose steps and guidance enlarge what its networks differ in, in levels of 255."""
SCORES = Tolerance(1e-3, 1e-3)
"""Of the scores of a reward, in the root mean square of PyTorch's."""
GRADIENTS = Tolerance(5e-2, 1e-3)
"""Of a reward's gradient in the picture, in standard deviations of PyTorch's."""


def compare_outputs(part: str, ours: np.ndarray, theirs: np.ndarray, tolerance: Tolerance) -> Check:
    """Compare in standard deviations of PyTorch's output; where all of it is one number, as it is."""
    with np.errstate(invalid="ignore"):  # what is not finite fails below
        unit = float(np.std(theirs, dtype=np.float64)) or 1.0
    return _compare(part, ours, theirs, unit, f"std {unit:.3g}", tolerance)


def compare_scores(part: str, ours: np.ndarray, theirs: np.ndarray, tolerance: Tolerance) -> Check:
    """Compare scores [B] in the root mean square of PyTorch's, for two scores may be nearly the same."""
    unit = float(np.sqrt(np.mean(np.square(theirs, dtype=np.float64)))) or 1.0
    return _compare(part, ours, theirs, unit, f"rms {unit:.3g}", tolerance)


def compare_pictures(part: str, ours: np.ndarray, theirs: np.ndarray, tolerance: Tolerance) -> Check:
    """Compare pictures in [0, 1] in levels of 255."""
    return _compare(part, ours, theirs, 1 / 255, "1/255", tolerance)


def _compare(
    part: str, ours: np.ndarray, theirs: np.ndarray, scale: float, unit: str, tolerance: Tolerance
) -> Check:
    nothing = Tolerance(np.nan, np.nan)
    if ours.shape != theirs.shape:
        fault = f"shapes {ours.shape} here, {theirs.shape} in PyTorch"
        return Check(part, "", nothing, tolerance, fault)
    for side, values in (("here", ours), ("in PyTorch", theirs)):
        bad = int(np.sum(~np.isfinite(values)))
        if bad:
            return Check(part, "", nothing, tolerance, f"{bad} of {values.size} not finite {side}")
    apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)) / scale
    return Check(part, unit, Tolerance(float(apart.max()), float(apart.mean())), tolerance)


def format_checks(checks: Sequence[Check]) -> str:
    """Lay checks out as a Markdown table, readable in a terminal too."""
    head = ["", "unit", "largest", "at most", "mean", "at most", "result"]
    rows = []
    for check in checks:
        largest, mean = (f"{value:.2g}" for value in check.found)
        most = [f"{value:g}" for value in check.tolerance]
        result = check.fault or ("ok" if check.holds else "beyond its tolerance")
        result = result if check.holds else f"FAIL: {result}"
        rows.append([check.part, check.unit, largest, most[0], mean, most[1], result])
    cells = [[Cell(text) for text in row] for row in (head, *rows)]
    return markdown(Table(cells[0], cells[1:], [check.part for check in checks]))
