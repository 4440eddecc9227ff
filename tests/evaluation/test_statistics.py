"""Bootstrap intervals against slow loops, SciPy, and how often they hold the truth."""

import numpy as np
import pytest
import scipy.stats

from rats_jax.evaluation.statistics import Interval, nested_bootstrap, paired_bootstrap, win_rates

OPTIONS = {"against": "teacher", "num_resamples": 2000, "seed": 0}


@pytest.fixture
def values():
    """Scores of 24 prompts, whose difficulty all contestants share, and 3 seeds."""
    generator = np.random.default_rng(0)
    difficulty = generator.normal(size=(24, 1))
    return {
        who: shift + difficulty + 0.3 * generator.normal(size=(24, 3))
        for who, shift in {"teacher": 0.0, "untrained": -0.5, "student": 0.1}.items()
    }


def slow_interval(pictures, num_resamples=4000, seed=7):
    """Draw whole rows again, one resample after the other."""
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(num_resamples):
        chosen = [pictures[generator.integers(len(pictures))] for _ in range(len(pictures))]
        means.append(np.mean(np.concatenate(chosen)))
    return Interval(float(np.mean(pictures)), *np.percentile(means, [2.5, 97.5]))


def assert_like(found, expected):
    """The mean is exact; the ends agree to a tenth of the width, which is what resampling leaves open."""
    assert found.mean == pytest.approx(expected.mean, rel=1e-12)
    assert found[1:] == pytest.approx(expected[1:], abs=0.1 * (expected.high - expected.low))


def test_intervals_are_those_of_a_slow_loop(values):
    found = paired_bootstrap(values, **OPTIONS)
    assert found["teacher"][1] is None
    for who, own in values.items():
        assert_like(found[who][0], slow_interval(own))
        if who != "teacher":
            assert_like(found[who][1], slow_interval(own - values["teacher"]))


def test_intervals_of_one_seed_are_those_of_scipy(values):
    column = values["student"][:, :1]
    found = paired_bootstrap({"teacher": column}, **OPTIONS)["teacher"][0]
    expected = scipy.stats.bootstrap(
        (column[:, 0],), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert_like(found, Interval(float(column.mean()), *expected))


def test_a_pair_is_known_better_than_its_parts(values):
    found = paired_bootstrap(values, **OPTIONS)
    mean, difference = found["student"]
    assert difference.high - difference.low < 0.4 * (mean.high - mean.low)
    assert difference.low <= difference.mean <= difference.high
    assert difference.mean == pytest.approx(mean.mean - found["teacher"][0].mean, rel=1e-12)
    assert found["untrained"][1].high < 0.0


def test_all_contestants_see_the_same_resamples(values):
    shifted = {"teacher": values["teacher"], "student": values["teacher"] + 1.0}
    (teacher, _), (student, difference) = (
        paired_bootstrap(shifted, **OPTIONS)[who] for who in ("teacher", "student")
    )
    np.testing.assert_allclose(difference, 1.0, rtol=1e-12)
    np.testing.assert_allclose(student, np.array(teacher) + 1.0, rtol=1e-12)


def test_copies_of_a_picture_make_nothing_surer(values):
    """The prompt is the unit: were pictures drawn again one by one, nine copies would narrow the interval."""
    once = {who: own[:, :1] for who, own in values.items()}
    copied = {who: np.repeat(own, 9, axis=1) for who, own in once.items()}
    for function in (paired_bootstrap, win_rates):
        few, many = function(once, **OPTIONS)["student"], function(copied, **OPTIONS)["student"]
        np.testing.assert_allclose(np.array(many), np.array(few), rtol=1e-12)


def test_a_nominal_95_percent_are_about_that():
    generator, hits = np.random.default_rng(0), 0
    for seed in range(300):
        difficulty = generator.normal(size=(40, 1))
        teacher = difficulty + generator.normal(size=(40, 3))
        student = difficulty + 0.2 + 0.5 * generator.normal(size=(40, 1)) + generator.normal(size=(40, 3))
        found = paired_bootstrap(
            {"teacher": teacher, "student": student}, against="teacher", num_resamples=500, seed=seed
        )["student"][1]
        hits += found.low <= 0.2 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_win_rates_are_shares_of_wins_with_ties_by_half():
    teacher = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    student = np.array([[2.0, 0.0], [1.0, 2.0], [1.0, 1.0], [3.0, 2.0]])
    wins = np.array([[1.0, 0.0], [0.5, 1.0], [0.5, 0.5], [1.0, 1.0]])
    found = win_rates({"student": student, "teacher": teacher}, **OPTIONS)
    assert found["teacher"] is None
    assert found["student"].mean == 5.5 / 8
    expected = paired_bootstrap({"teacher": wins}, **OPTIONS)["teacher"][0]
    np.testing.assert_allclose(found["student"], expected, rtol=1e-12)


def test_win_rates_have_the_intervals_of_a_slow_loop(values):
    found = win_rates(values, **OPTIONS)
    assert_like(found["student"], slow_interval((values["student"] > values["teacher"]).astype(float)))


def test_swapped_contestants_win_what_the_other_loses(values):
    one = win_rates(values, **OPTIONS)["student"]
    other = win_rates(values, **(OPTIONS | {"against": "student"}))["teacher"]
    np.testing.assert_allclose(
        [other.mean, other.low, other.high], [1 - one.mean, 1 - one.high, 1 - one.low], atol=1e-12
    )


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_one_prompt_has_intervals_without_width(num_seeds):
    scores = {"teacher": np.arange(num_seeds)[None], "student": 0.1 + np.arange(num_seeds)[None]}
    for interval in paired_bootstrap(scores, **OPTIONS)["student"]:
        assert interval.low == interval.mean == interval.high
    assert win_rates(scores, **OPTIONS)["student"] == Interval(1.0, 1.0, 1.0)
    assert nested_bootstrap(np.array([[0.3]]), num_resamples=100, seed=0) == Interval(0.3, 0.3, 0.3)


def test_the_seed_decides(values):
    differences = values["student"].T
    for run in (
        lambda seed: paired_bootstrap(values, **(OPTIONS | {"seed": seed})),
        lambda seed: win_rates(values, **(OPTIONS | {"seed": seed})),
        lambda seed: nested_bootstrap(differences, num_resamples=500, seed=seed),
    ):
        assert run(1) == run(1)
        assert run(1) != run(2)


def test_nested_intervals_are_those_of_a_slow_loop():
    generator = np.random.default_rng(0)
    differences = (
        0.4 * generator.normal(size=(5, 1)) + generator.normal(size=(1, 12)) + generator.normal(size=(5, 12))
    )
    means = []
    for _ in range(4000):
        runs, prompts = generator.integers(5, size=5), generator.integers(12, size=12)
        means.append(np.mean([[differences[r, p] for p in prompts] for r in runs]))
    expected = Interval(float(np.mean(differences)), *np.percentile(means, [2.5, 97.5]))
    assert_like(nested_bootstrap(differences, num_resamples=4000, seed=0), expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_nested_intervals_have_the_width_of_what_varies(axis):
    """If prompts are all alike, only the runs count, and the other way round."""
    column = np.random.default_rng(3).normal(size=(10, 1))
    differences = np.repeat(column, 6, axis=1)
    expected = paired_bootstrap({"teacher": column}, **OPTIONS)["teacher"][0]
    assert_like(
        nested_bootstrap(differences if axis == 0 else differences.T, num_resamples=2000, seed=0), expected
    )


def test_runs_and_prompts_are_drawn_independently():
    # Drawn alike, they would cancel here.
    effects = np.random.default_rng(3).normal(size=10)
    found = nested_bootstrap(effects[:, None] - effects, num_resamples=2000, seed=0)
    assert found.mean == pytest.approx(0.0, abs=1e-12)
    expected = 2 * 1.96 * effects.std() * np.sqrt(2 / 10)
    assert found.high - found.low == pytest.approx(expected, rel=0.15)


def test_runs_count_in_how_sure_a_difference_is():
    generator = np.random.default_rng(0)
    nested = pooled = 0
    for seed in range(200):
        runs, prompts = 0.5 * generator.normal(size=(8, 1)), 0.5 * generator.normal(size=(1, 16))
        differences = runs + prompts + 0.2 * generator.normal(size=(8, 16))
        both = nested_bootstrap(differences, num_resamples=400, seed=seed)
        only = paired_bootstrap({"teacher": differences.T}, against="teacher", num_resamples=400, seed=seed)[
            "teacher"
        ][0]
        nested += both.low <= 0.0 <= both.high
        pooled += only.low <= 0.0 <= only.high
    assert nested / 200 > 0.87 > 0.80 > pooled / 200


@pytest.mark.parametrize("function", [paired_bootstrap, win_rates])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"student": np.array([[1.0], [np.nan]])}, "'student' has 1 of 2 values that are not finite"),
        ({"teacher": np.array([[np.inf], [-np.inf]])}, "'teacher' has 2 of 2 values that are not finite"),
        ({"student": np.zeros((3, 1))}, r"'student' has values \(3, 1\), expected \(2, 1\)"),
        ({"student": np.zeros(2)}, r"'student' has values \(2,\), expected two dimensions"),
        ({"student": np.zeros((0, 1))}, r"'student' has values \(0, 1\), expected two dimensions"),
    ],
)
def test_bad_values_are_refused_with_the_name_of_their_contestant(function, change, message):
    scores = {"teacher": np.zeros((2, 1)), "student": np.zeros((2, 1))} | change
    with pytest.raises(ValueError, match=message):
        function(scores, **OPTIONS)


def test_bad_settings_are_refused(values):
    with pytest.raises(ValueError, match="against='nobody': expected one of .*student"):
        paired_bootstrap(values, **(OPTIONS | {"against": "nobody"}))
    with pytest.raises(ValueError, match="num_resamples=0"):
        win_rates(values, **(OPTIONS | {"num_resamples": 0}))
    with pytest.raises(ValueError, match="'differences' has 1 of 2 values that are not finite"):
        nested_bootstrap(np.array([[1.0, np.nan]]), num_resamples=10, seed=0)
