"""Differences, their units and what fails, on a few numbers."""

import numpy as np
import pytest

from rats_jax.errors import ConfigError
from rats_jax.verification.comparison import (
    Tolerance,
    compare_outputs,
    compare_pictures,
    compare_scores,
    format_checks,
)
from rats_jax.verification.report import expect_all

ALLOWED = Tolerance(0.1, 0.05)


def test_differences_are_counted_in_their_units():
    theirs = np.float32([[1.0, 3.0], [1.0, 3.0]])  # mean 2, deviation 1
    ours = theirs + np.float32([[0.0, 0.08], [0.0, 0.0]])
    check = compare_outputs("network", ours, theirs, ALLOWED)
    assert check.holds and check.unit == "std 1"
    np.testing.assert_allclose(check.found, (0.08, 0.02), rtol=1e-5)
    assert compare_outputs("network", 10 * ours, 10 * theirs, ALLOWED).found == pytest.approx(check.found)
    scores = compare_scores("reward", np.float32([3.0, 4.05]), np.float32([3.0, 4.0]), ALLOWED)
    np.testing.assert_allclose(scores.found, (0.05 / 12.5**0.5, 0.025 / 12.5**0.5), rtol=1e-5)
    pictures = compare_pictures("sample", np.float32([0.5, 2 / 255]), np.float32([0.5, 0.0]), ALLOWED)
    np.testing.assert_allclose(pictures.found, (2.0, 1.0), rtol=1e-5)
    zeros = np.zeros((2, 2), np.float32)
    assert compare_outputs("nothing", zeros, zeros, ALLOWED).found == (0.0, 0.0)


def test_either_tolerance_counts():
    theirs = np.float32([1.0, -1.0] * 50)
    one, all_of_them = theirs.copy(), theirs + np.float32(0.06)
    one[3] += 0.2
    assert not compare_outputs("largest", one, theirs, ALLOWED).holds
    assert not compare_outputs("mean", all_of_them, theirs, ALLOWED).holds
    assert compare_outputs("neither", theirs + np.float32(0.04), theirs, ALLOWED).holds


def test_what_cannot_be_compared_fails_by_name():
    theirs = np.arange(4, dtype=np.float32)
    ours = np.where(theirs == 2, np.nan, theirs).astype(np.float32)
    checks = [
        compare_outputs("good", theirs, theirs, ALLOWED),
        compare_outputs("here", ours, theirs, ALLOWED),
        compare_outputs("there", theirs, np.where(theirs > 1, np.inf, theirs), ALLOWED),
        compare_pictures("shape", theirs[:2], theirs, ALLOWED),
    ]
    table = format_checks(checks)
    for text in (
        "1 of 4 not finite here",
        "2 of 4 not finite in PyTorch",
        "shapes (2,) here, (4,) in PyTorch",
    ):
        assert f"FAIL: {text}" in table
    with pytest.raises(
        ConfigError, match="^3 of 4 comparisons are beyond their tolerance: here; there; shape$"
    ):
        expect_all(checks)
    expect_all(checks[:1])
