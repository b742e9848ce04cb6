from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from nas.evaluation.intervals import as_text, interval, interval_of, paired_bootstrap, paired_error, wilson


@pytest.mark.parametrize(("correct", "count"), [(0, 1), (0, 9), (1, 1), (7, 7), (3, 10), (940, 1000), (1, 3)])
def test_intervals_are_wilsons(correct: int, count: int) -> None:
    low, high = wilson(correct, count)
    interval = binomtest(correct, count).proportion_ci(method="wilson")
    assert (float(low), float(high)) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_a_paired_interval_is_that_of_resampled_images() -> None:
    rng = np.random.default_rng(3)
    one = rng.random(400) < 0.8
    other = np.where(rng.random(400) < 0.1, ~one, one)
    resampled = bootstrap(
        (one, other),
        lambda a, b, axis=-1: a.mean(axis) - b.mean(axis),
        paired=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert paired_bootstrap(one, other) == pytest.approx((resampled.low, resampled.high), abs=0.003)


def test_a_paired_interval_knows_that_the_images_are_the_same() -> None:
    """20 of 1000 images that only one of them knows: 2 ± 1.96 · 0.443 points, though 50 % alone is known to ± 3.1."""
    one, other = np.zeros((2, 1000), dtype=bool)
    one[:500] = other[20:500] = True
    assert paired_bootstrap(one, other) == pytest.approx((0.0113, 0.0287), abs=0.001)
    assert paired_bootstrap(other, one) == pytest.approx((-0.0287, -0.0113), abs=0.001)
    assert paired_bootstrap(one, one) == (0.0, 0.0)
    assert paired_bootstrap(one, other) == paired_bootstrap(one, other)


def test_an_accuracy_s_interval_is_what_json_holds() -> None:
    assert interval(0.75, 200) == [pytest.approx(end) for end in wilson(150, 200)]


def test_the_error_of_a_paired_difference_is_of_the_images_on_which_one_alone_is_right() -> None:
    one, other = np.zeros((2, 100), bool)
    one[:9], other[9:16] = True, True  # McNemar's statistic is (9 - 7)² / 16
    assert (0.09 - 0.07) ** 2 / paired_error(one, other) ** 2 == pytest.approx(4 / 16)


def test_the_interval_of_a_figure_is_that_of_the_mean_of_its_parts() -> None:
    scores = np.random.default_rng(0).normal(0.4, 0.05, 20)
    low, high = interval_of(scores)
    error = scores.std(ddof=1) / 20**0.5
    assert (low + high) / 2 == pytest.approx(scores.mean()) and high - low == pytest.approx(2 * 1.959964 * error)
    assert interval_of(np.array([0.3])) == [0.0, 1.0]
    assert as_text(0.4, (0.375, 0.425)) == "40.00 % (37.5–42.5)"


def test_what_makes_a_part_of_the_images_hard_for_both_is_no_difference() -> None:
    hard = np.random.default_rng(1).normal(0, 0.2, 20)
    one, other = 0.5 + hard, 0.45 + hard
    assert paired_bootstrap(one, other) == pytest.approx((0.05, 0.05))
    assert paired_error(one, other) == pytest.approx(0.05 / 20**0.5)
    rng = np.random.default_rng(2)
    noisy = one + rng.normal(0, 0.02, 20)
    low, high = paired_bootstrap(noisy, other)
    assert 0.03 < low < float((noisy - other).mean()) < high < 0.07
