"""How far chance in the choice of images moves an accuracy, or the difference of two: 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959964  # of a two-sided 95 % interval
RESAMPLES = 10_000


def wilson(correct: ArrayLike, count: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % score interval of each proportion `correct / count` (Wilson 1927); 0 and 1 where count is 0.

    Unlike the usual p ± 1.96 s it has a width for classes that are all right or all wrong, and stays within 0 and 1.
    """
    correct, count = np.asarray(correct), np.asarray(count)
    n = np.maximum(count, 1)
    p = correct / n
    center = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low = np.where((count == 0) | (correct == 0), 0.0, center - half)  # exactly: rounding left 1e-17
    high = np.where((count == 0) | (correct == count), 1.0, center + half)
    return low, high


def with_interval(accuracy: float, count: int, decimals: int = 2) -> str:
    """An accuracy, a fraction of so many images, `as_text` with its 95 % interval."""
    return as_text(accuracy, interval(accuracy, count), decimals)


def interval(accuracy: float, count: int) -> list[float]:
    """Ends of the 95 % interval of an accuracy, a fraction of so many images: in JSON beside `x` as `x_interval`."""
    low, high = wilson(accuracy * count, count)
    return [float(low), float(high)]


def interval_of(scores: np.ndarray) -> list[float]:
    """Ends of the 95 % interval of a figure that is no mean over images, the normal one.

    Args:
        scores: (parts,) what each part of the images says of the figure, which is their mean
            (`nas.evaluation.judge.Judge.scores`).
    """
    value, count = float(scores.mean()), len(scores)
    half = Z * float(scores.std(ddof=1)) / np.sqrt(count) if count > 1 else 1.0
    return [max(0.0, value - half), min(1.0, value + half)]


def as_text(value: float, ends: Sequence[float], decimals: int = 2) -> str:
    """'81.64 % (80.1–83.1)': a figure, a fraction, and its 95 % interval."""
    low, high = ends
    fewer = max(0, decimals - 1)
    return f"{100 * value:.{decimals}f} % ({100 * low:.{fewer}f}–{100 * high:.{fewer}f})"


def paired_error(one: np.ndarray, other: np.ndarray) -> float:
    """Standard error of the difference of two figures on the same images, were both equally good: of accuracies
    McNemar's (1947).

    Args:
        one, other: (images,) whether the network is right, or scores as `interval_of` has them.
    """
    difference = one.astype(np.float64) - other.astype(np.float64)
    return float(np.sqrt(np.sum(difference**2)) / len(one))


def error_bars(found: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Whiskers of Plotly for points in %: the 95 % interval of each accuracy, a fraction of so many images."""
    ends = [(accuracy, *wilson(accuracy * count, count)) for accuracy, count in found]
    return whiskers([(accuracy, float(low), float(high)) for accuracy, low, high in ends])


def whiskers(intervals: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """The same of intervals that are known: (accuracy, low, high), fractions."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (high - value) for value, _, high in intervals],
        "arrayminus": [100 * (value - low) for value, low, _ in intervals],
        "thickness": 1,
        "width": 3,
    }


def paired_bootstrap(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Ends of the 95 % percentile interval (Efron 1979) of the accuracy of `one` less that of `other`.

    Images, or parts of them, are drawn with replacement, each with what both networks have there, so what makes it hard
    for either does not widen the interval. Of right answers an image adds 1, 0 or -1 to the difference: how many of
    each a draw has is multinomial.

    Args:
        one, other: (images,) whether the network is right, or scores as `interval_of` has them.
    """
    rng, count = np.random.default_rng(0), len(one)
    if one.dtype == bool:
        difference = one.astype(np.int64) - other.astype(np.int64)
        drawn = rng.multinomial(count, [np.mean(difference == value) for value in (1, 0, -1)], size=RESAMPLES)
        means = (drawn[:, 0] - drawn[:, 2]) / count
    else:
        means = (one - other)[rng.integers(count, size=(RESAMPLES, count))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
