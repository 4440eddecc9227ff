"""What a finished run says of itself."""

import numpy as np
import pytest

from rats_jax.errors import DivergedError
from rats_jax.training.summary import _conclude, _expect_finite
from rats_jax.training.table import Pictures


def test_a_score_of_the_table_that_is_not_finite_is_named():
    pictures = Pictures(None, None, {"reward": np.ones(3), "judge": np.array([1.0, np.nan, np.inf])})
    expected = (
        "^table: 2 of 3 scores 'judge' of the student's pictures are not finite, that of 'dog' is the first"
    )
    with pytest.raises(DivergedError, match=expected):
        _expect_finite("student", pictures, ["cat", "dog", "apple"])
    _expect_finite("student", pictures._replace(scores={"reward": np.ones(3)}), ["cat", "dog", "apple"])


@pytest.mark.parametrize(
    ("updates", "leads", "conclusion"),
    [
        (19, None, "too few to say who leads"),
        (20, None, "the student does not lead its teacher"),
        (40, 31, "the student leads from update 31"),
    ],
)
def test_the_last_line_says_who_leads(updates, leads, conclusion):
    summary = {"updates": updates, "seconds": 90.0, "first_update_student_leads": leads}
    assert _conclude(summary) == f"{updates} updates in 1.5 minutes; {conclusion}"
