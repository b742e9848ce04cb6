"""How far chance in the choice of images moves an accuracy: 95 % intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959964  # of a two-sided 95 % interval


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
