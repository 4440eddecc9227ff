"""Reward hacking: which falls are found, and which are none."""

import pytest

from rats_jax.training.hacking import find_hacking, health, rank


def records(rewards, judged, saturations=None):
    saturations = saturations or [0.5] * len(rewards)
    return [
        {
            "step": i,
            "reward/student": reward,
            "reward/teacher": 1.0,
            "monitor/judge/student": value,
            "monitor/judge/teacher": 3.0,
            "guard/saturation/student": saturation,
            "guard/saturation/teacher": 0.5,
            "guard/diversity/student": 0.3,
        }
        for i, (reward, value, saturation) in enumerate(zip(rewards, judged, saturations, strict=True))
    ]


def test_health_is_of_the_student_and_higher_is_better():
    record = records([1.0], [2.0], [0.7])[0]
    expected = {"monitor/judge": 2.0, "guard/saturation": pytest.approx(-0.4), "guard/diversity": 0.3}
    assert health(record) == expected
    assert health(records([1.0], [2.0], [0.52])[0])["guard/saturation"] == 0.0  # as two good models differ
    assert rank(record, judge="judge") == 2.0
    assert rank(record, judge="") == pytest.approx(2.0 - 0.4 + 0.3)


@pytest.mark.parametrize(
    ("rewards", "judged", "saturations", "expected"),
    [
        ([1, 2, 3, 4], [9, 8, 7, 6], None, ["monitor/judge"]),
        ([5, 1, 2, 3, 4], [0, 9, 8, 7, 6], None, ["monitor/judge"]),  # only the last count
        ([1, 2, 3, 4], [6, 7, 8, 9], None, []),  # both rise
        ([4, 3, 2, 1], [9, 8, 7, 6], None, []),  # both fall: bad training, not hacking
        ([1, 2, 3, 4], [9, 8, 8.5, 7], None, []),  # not in a row
        ([1, 3, 2, 4], [9, 8, 7, 6], None, []),
        ([1, 2, 3], [9, 8, 7], None, []),  # too few
        ([1, 2, 3, 4], [1, 2, 3, 4], [0.5, 0.6, 0.7, 0.8], ["guard/saturation"]),
        ([1, 2, 3, 4], [1, 2, 3, 4], [0.5, 0.42, 0.3, 0.2], ["guard/saturation"]),  # grey is no better
        ([1, 2, 3, 4], [1, 2, 3, 4], [0.5, 0.51, 0.52, 0.53], []),  # within tolerance
        ([1, 2, 3, 4], [4, 3, 2, 1], [0.5, 0.6, 0.7, 0.8], ["monitor/judge", "guard/saturation"]),
    ],
)
def test_what_falls_while_the_reward_rises_is_named(rewards, judged, saturations, expected):
    assert find_hacking(records(rewards, judged, saturations), patience=3) == expected
