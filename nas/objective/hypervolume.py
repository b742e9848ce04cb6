"""Hypervolume: the area that points dominate above a reference point (Zitzler and Thiele 1999), as a search goes on.

Exact, for two objectives that are maximized. Optuna's own function for it is not public.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-9  # of a target: the same areas, added in another order


def hypervolume_history(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n,) area dominated by the first 1, 2, …, n of the (n, 2) points.

    A point adds its box less what the front covers of it, which is the area of the front clipped to that box (While et
    al. 2012, WFG, equations 6 and 7). One that is not above the reference in both objectives adds nothing.
    """
    front, total = np.zeros((0, 2)), 0.0  # the front by ascending first, so by descending second objective
    history = np.zeros(len(points))
    for i, point in enumerate(np.maximum(points - reference, 0)):
        if not np.any(np.all(front >= point, axis=1)):
            total += point.prod() - _area(np.minimum(front, point))
            front = np.vstack([front[~np.all(front <= point, axis=1)], point])
            front = front[np.argsort(front[:, 0])]
        history[i] = total
    return history


def _area(front: np.ndarray) -> float:
    """Of the staircase under (n, 2) points, the first objective ascending and the second descending."""
    return float(np.diff(front[:, 0], prepend=0.0) @ front[:, 1])


@dataclass(frozen=True)
class Progress:
    """The hypervolume of a search as a step function of what it has spent: 0, and `value[i]` from `spent[i]` on.

    Args:
        spent: (n,) evaluations or minutes, ascending.
        value: (n,) hypervolume, ascending.
    """

    spent: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, spent: np.ndarray, reference: np.ndarray) -> Progress:
        """Of (n, 2) points that were known after (n,) evaluations or minutes, in any order."""
        order = np.argsort(spent, kind="stable")
        return cls(spent[order], hypervolume_history(points[order], reference))

    @property
    def final(self) -> float:
        return float(self.value[-1])

    @property
    def steps(self) -> np.ndarray:
        """The `spent` at which the value changes, and the last."""
        return self.spent[np.append(np.diff(self.value, prepend=0.0)[:-1] > 0, True)]

    def at(self, spent: np.ndarray) -> np.ndarray:
        """The hypervolume when so much has been spent; the final one from the end on."""
        return np.append(0.0, self.value)[np.searchsorted(self.spent, spent, side="right")]

    def reaches(self, target: float) -> float | None:
        """What is spent when the hypervolume is first at the target; None if it never is."""
        reached = np.flatnonzero(self.value >= target * (1 - TOLERANCE))
        return float(self.spent[reached[0]]) if len(reached) else None
