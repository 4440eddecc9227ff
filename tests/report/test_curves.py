"""The moving average of the curves, by hand."""

import numpy as np
import pytest

from rats_jax.report.curves import moving_average

NAN = np.nan


@pytest.mark.parametrize(
    ("values", "window", "wanted"),
    [
        ([1, 2, 6, 0, 3], 1, [1, 2, 6, 0, 3]),
        ([1, 2, 6, 0, 3], 2, [NAN, 1.5, 4, 3, 1.5]),
        ([1, 2, 6, 0, 4], 3, [NAN, NAN, 3, 8 / 3, 10 / 3]),
        ([1, 2, 6], 3, [NAN, NAN, 3]),
        ([1, 2, 6], 4, [NAN, NAN, NAN]),
        ([], 2, []),
        ([1, NAN, 3, 5, 7], 2, [NAN, NAN, NAN, 4, 6]),
    ],
)
def test_each_value_is_averaged_with_those_before_it(values, window, wanted):
    found = moving_average(np.array(values, np.float64), window)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
