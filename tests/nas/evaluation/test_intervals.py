from __future__ import annotations

import pytest
from scipy.stats import binomtest

from nas.evaluation.intervals import wilson


@pytest.mark.parametrize(("correct", "count"), [(0, 1), (0, 9), (1, 1), (7, 7), (3, 10), (940, 1000), (1, 3)])
def test_intervals_are_wilsons(correct: int, count: int) -> None:
    low, high = wilson(correct, count)
    interval = binomtest(correct, count).proportion_ci(method="wilson")
    assert (float(low), float(high)) == pytest.approx((interval.low, interval.high), abs=1e-6)
