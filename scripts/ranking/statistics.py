"""How well one accuracy of many networks predicts another: correlations, regrets, gaps, and what noise lets them be.

Every statistic takes how often each network counts, so the bootstrap is one call on a matrix of counts: a resample of
the networks (with replacement) is a row, and (1, 1, …, 1) is the sample itself. Ties are those of Kendall's τ-b and of
average ranks, as scipy has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

DRAWS = 2000
TAILS = (2.5, 97.5)  # percentiles: a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % bootstrap interval over networks; None where it is not defined (all values equal)."""

    value: float | None
    low: float | None = None
    high: float | None = None


Statistic = Callable[[np.ndarray], np.ndarray]  # (draws, n) counts to (draws,) values, NaN where not defined


def estimate(statistic: Statistic, num_networks: int, seed: int = 0) -> Estimate:
    """The statistic of the sample and its percentile bootstrap interval (Efron 1979), a function of the seed."""
    (value,) = statistic(np.ones((1, num_networks), dtype=np.int64))
    if not np.isfinite(value):
        return Estimate(None)
    rng = np.random.default_rng(seed)
    drawn = statistic(rng.multinomial(num_networks, np.full(num_networks, 1 / num_networks), size=DRAWS))
    low, high = np.percentile(drawn[np.isfinite(drawn)], TAILS)
    return Estimate(float(value), float(low), float(high))


def compare(predicted: Sequence[float], scratch: Sequence[float], *, gaps: bool = True) -> dict[str, Estimate]:
    """What a predictor knows of the accuracies from scratch, by the statistic's name.

    Args:
        predicted: (n,) inherited accuracies, or anything that should rise with the accuracy.
        scratch: (n,) accuracies.
        gaps: whether `predicted` is an accuracy too, so that a difference has a meaning.
    """
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(scratch, dtype=np.float64)
    statistics: dict[str, Statistic] = {
        "pearson": lambda counts: pearson(x, y, counts),
        "r2": lambda counts: pearson(x, y, counts) ** 2,
        "spearman": lambda counts: pearson(_ranks(x, counts), _ranks(y, counts), counts),
        "kendall": lambda counts: kendall(x, y, counts),
        "regret_1": lambda counts: regret(x, y, counts, 1),
        "regret_3": lambda counts: regret(x, y, counts, 3),
    }
    if gaps:
        statistics["gap"] = lambda counts: (counts * (y - x)).sum(axis=1) / counts.sum(axis=1)
    return {name: estimate(statistic, len(x)) for name, statistic in statistics.items()}


def pearson(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(draws,) Pearson correlations.

    Args:
        x, y: (n,), or (draws, n).
        counts: (draws, n).
    """
    total = counts.sum(axis=1, keepdims=True)
    dx = x - (counts * x).sum(axis=1, keepdims=True) / total
    dy = y - (counts * y).sum(axis=1, keepdims=True) / total
    covariance, vx, vy = ((counts * a).sum(axis=1) for a in (dx * dy, dx**2, dy**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = covariance / np.sqrt(vx * vy)
    return np.where(_varies(x, counts) & _varies(y, counts), np.clip(r, -1, 1), np.nan)


def kendall(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(draws,) Kendall's τ-b of (n,) values: a network drawn twice is tied with itself."""
    sx, sy = (np.sign(np.subtract.outer(v, v)) for v in (x, y))
    concordance, untied_x, untied_y = (((counts @ pairs) * counts).sum(axis=1) for pairs in (sx * sy, sx**2, sy**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(concordance / np.sqrt(untied_x * untied_y))


def regret(x: np.ndarray, y: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """(draws,) what choosing by `x` costs: the best `y`, less the best `y` among the k networks of the highest `x`.

    Of networks with equal `x` those with the lowest `y` are chosen: a predictor earns nothing by ties.
    """
    order = np.lexsort((y, -x))
    drawn = counts[:, order] > 0
    chosen = drawn & (drawn.cumsum(axis=1) <= k)
    best_chosen, best = (np.where(mask, y[order], -np.inf).max(axis=1) for mask in (chosen, drawn))
    return np.asarray(best - best_chosen)


def _ranks(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(draws, n) average ranks of (n,) values."""
    below, equal = (x[None, :] < x[:, None]), (x[None, :] == x[:, None])
    return np.asarray(counts @ below.T + (counts @ equal.T + 1) / 2)


def _varies(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    drawn = counts > 0
    return np.asarray(
        np.where(drawn, x, -np.inf).max(axis=1) > np.where(drawn, x, np.inf).min(axis=1),
    )


# ---- what noise lets them be


def ceiling(scratch: np.ndarray) -> dict[str, Estimate]:
    """The r² and τ that a predictor of the true accuracies could expect with the mean of a few noisy trainings.

    Two trainings of the same networks correlate by r, the reliability of one. The mean of k has the reliability
    ρ = k·r / (1 + (k - 1)·r) (Spearman 1910, Brown 1910: Brit. J. Psychology 3), and what is free of noise correlates
    with it by √ρ at most (Spearman 1904, Amer. J. Psychology 15), so r² ≤ ρ. For τ the same, by way of the r that has
    that τ when both are normally distributed, τ = 2/π · arcsin r (Greiner 1909): an approximation.

    Args:
        scratch: (k, n) accuracies of n networks from k seeds, k at least 2.
    """
    seeds, num_networks = scratch.shape
    pairs = list(combinations(scratch, 2))

    def mean_of(statistic: Callable[..., np.ndarray], counts: np.ndarray) -> np.ndarray:
        return np.mean([statistic(a, b, counts) for a, b in pairs], axis=0)

    def r2(counts: np.ndarray) -> np.ndarray:
        return spearman_brown(mean_of(pearson, counts), seeds)

    def tau(counts: np.ndarray) -> np.ndarray:
        one = np.sin(np.pi / 2 * mean_of(kendall, counts))
        return np.asarray(2 / np.pi * np.arcsin(np.sqrt(spearman_brown(one, seeds))))

    return {"r2": estimate(r2, num_networks), "kendall": estimate(tau, num_networks)}


def spearman_brown(r: np.ndarray, k: int) -> np.ndarray:
    """Reliability of the mean of k trainings from that of one; below 0, where noise is all there is, 0."""
    r = np.maximum(r, 0)
    return np.asarray(k * r / (1 + (k - 1) * r))
