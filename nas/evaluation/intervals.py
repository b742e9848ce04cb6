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
    """'81.64 % (80.1–83.1)': an accuracy, a fraction of so many images, and its 95 % interval."""
    low, high = wilson(accuracy * count, count)
    ends = max(0, decimals - 1)
    return f"{100 * accuracy:.{decimals}f} % ({100 * low:.{ends}f}–{100 * high:.{ends}f})"


def interval(accuracy: float, count: int) -> list[float]:
    """Ends of the 95 % interval of an accuracy, a fraction of so many images: in JSON beside `x` as `x_interval`."""
    low, high = wilson(accuracy * count, count)
    return [float(low), float(high)]


def paired_error(one: np.ndarray, other: np.ndarray) -> float:
    """Standard error of the difference of two accuracies on the same images, were both equally good (McNemar 1947).

    Args:
        one, other: (images,) whether the network is right.
    """
    return float(np.sqrt(np.sum(one != other)) / len(one))


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


def paired_bootstrap(
    one: np.ndarray, other: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Ends of the 95 % percentile interval (Efron 1979) of the accuracy of `one` less that of `other`.

    Images are drawn with replacement, each with both of its answers, so what makes an image hard for either network
    does not widen the interval. An image adds 1, 0 or -1 to the difference: how many of each a draw has is multinomial.

    Args:
        one, other: (images,) whether the network is right.
    """
    difference = one.astype(np.int64) - other.astype(np.int64)
    count = len(difference)
    shares = [np.mean(difference == value) for value in (1, 0, -1)]
    drawn = np.random.default_rng(seed).multinomial(count, shares, size=resamples)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 2]) / count, [2.5, 97.5])
    return float(low), float(high)
