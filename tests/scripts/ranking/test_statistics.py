from __future__ import annotations

from math import isclose

import numpy as np
import pytest
from scipy import stats

from scripts.ranking import statistics
from scripts.ranking.statistics import (
    DRAWS,
    Estimate,
    ceiling,
    compare,
    estimate,
    kendall,
    pearson,
    regret,
    spearman_brown,
)

SCRATCH = [0.80, 0.70, 0.60, 0.50, 0.40]


def values(predicted: list[float], scratch: list[float] = SCRATCH) -> dict[str, float | None]:
    return {name: found.value for name, found in compare(predicted, scratch).items()}


def test_a_perfect_ranking() -> None:
    found = compare([a - 0.1 for a in SCRATCH], SCRATCH)
    assert {n: round(f.value or 0, 12) for n, f in found.items()} == {
        "pearson": 1,
        "r2": 1,
        "spearman": 1,
        "kendall": 1,
        "regret_1": 0,
        "regret_3": 0,
        "gap": 0.1,
    }
    for name in ("pearson", "r2", "spearman", "kendall", "gap"):
        assert found[name].low == pytest.approx(found[name].value) == found[name].high, "the same in every resample"


def test_a_reversed_ranking() -> None:
    found = values(SCRATCH[::-1])
    assert (found["pearson"], found["spearman"], found["kendall"]) == pytest.approx((-1, -1, -1))
    assert found["r2"] == pytest.approx(1), "r² does not tell the direction"
    assert found["regret_1"] == pytest.approx(0.40) and found["regret_3"] == pytest.approx(0.20)
    assert found["gap"] == pytest.approx(0)


def test_by_hand_with_ties() -> None:
    # of 10 pairs 1 is tied in x, 7 concordant, 2 discordant: τ-b = 5 / sqrt(9 · 10)
    found = values([0.5, 0.6, 0.6, 0.4, 0.3])
    concordant, discordant = 7, 2
    assert found["kendall"] == pytest.approx((concordant - discordant) / np.sqrt(9 * 10))
    # ranks of x 3, 4.5, 4.5, 2, 1 against 5, 4, 3, 2, 1; deviations 0, 1.5, 1.5, -1, -2 and 2, 1, 0, -1, -2
    assert found["spearman"] == pytest.approx((1.5 + 1 + 4) / np.sqrt((2 * 1.5**2 + 1 + 4) * 10))
    assert found["regret_1"] == pytest.approx(0.80 - 0.60), "of the two highest the worse is taken"
    assert found["regret_3"] == 0


def test_regret_counts_networks_once_however_often_they_are_drawn() -> None:
    x, y = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.1, 0.2, 0.3, 0.4])
    counts = np.array([[1, 1, 1, 1], [3, 0, 0, 1], [0, 2, 2, 0]])
    assert regret(x, y, counts, 1) == pytest.approx([0.3, 0.3, 0.1])
    assert regret(x, y, counts, 3) == pytest.approx([0.1, 0, 0])


@pytest.mark.parametrize("levels", [4, 1000], ids=["ties", "no ties"])
def test_counts_are_repetitions(levels: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, levels, (2, 9)) / levels
        counts = rng.multinomial(9, [1 / 9] * 9)
        drawn = np.repeat(np.arange(9), counts)
        assert pearson(x, y, counts[None])[0] == pytest.approx(stats.pearsonr(x[drawn], y[drawn]).statistic)
        assert kendall(x, y, counts[None])[0] == pytest.approx(stats.kendalltau(x[drawn], y[drawn]).statistic)
        found = compare(x, y)["spearman"].value
        assert found == pytest.approx(stats.spearmanr(x, y).statistic)


def test_what_is_not_defined_is_none() -> None:
    found = compare([0.1] * 5, SCRATCH)
    assert [n for n, f in found.items() if f == Estimate(None)] == ["pearson", "r2", "spearman", "kendall"]
    assert found["regret_1"].value == pytest.approx(0.4), "all tied: the worst"
    assert "gap" not in compare(SCRATCH, SCRATCH, gaps=False)


def test_intervals_repeat_and_hold_what_is_true() -> None:
    """Of 100 samples of 20 from a population with r = 0.8, about 95 intervals hold it."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        x = rng.normal(size=20)
        y = 0.8 * x + 0.6 * rng.normal(size=20)
        found = estimate(lambda counts, x=x, y=y: pearson(x, y, counts), 20)  # type: ignore[misc]
        assert found.low is not None and found.high is not None and found.value is not None
        assert found.low < found.value < found.high
        hits += found.low <= 0.8 <= found.high
    assert 85 <= hits <= 100
    assert compare(SCRATCH[::-1], SCRATCH) == compare(SCRATCH[::-1], SCRATCH)
    assert DRAWS == 2000


def test_spearman_brown() -> None:
    assert isclose(spearman_brown(np.array(0.5), 2), 2 / 3)
    assert isclose(spearman_brown(np.array(0.9), 1), 0.9)
    assert spearman_brown(np.array(-0.3), 2) == 0


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_ceiling_is_what_the_truth_reaches(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "DRAWS", 10)
    rng = np.random.default_rng(0)
    truth = rng.normal(size=1000)
    scratch = truth + 0.7 * rng.normal(size=(seeds, 1000))
    found, reached = ceiling(scratch), compare(truth.tolist(), scratch.mean(axis=0).tolist())
    for name in ("r2", "kendall"):
        assert found[name].value == pytest.approx(reached[name].value, abs=0.02)
    single = pearson(scratch[0], scratch[1], np.ones((1, 1000)))[0]
    assert single < (found["r2"].value or 0), "the mean is less noisy than one"
