"""Mobile Efficiency Score (Li et al. 2023, equation 1): MES = 100 · Π (Mᵢ / Uᵢ)^(−αᵢ) over named metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nas.objective.metrics import shown, unit_of
from search_spaces import UserError
from search_spaces.command.typed import read_typed

MOST_UNIT, MOST_ALPHA = 1e15, 100  # beyond them scores are no longer numbers


@dataclass(frozen=True)
class Term:
    """`(metric / unit) ** -alpha`; alpha 0 leaves the metric out."""

    metric: str
    unit: float
    alpha: float

    def __post_init__(self) -> None:
        if not 0 < self.unit <= MOST_UNIT:
            raise UserError(f"unit of {self.metric} is {self.unit}; give a number above 0, to {MOST_UNIT:g}")
        if not 0 <= self.alpha <= MOST_ALPHA:
            raise UserError(f"alpha of {self.metric} is {self.alpha}; give a number from 0 to {MOST_ALPHA}")


@dataclass(frozen=True)
class Objective:
    """The score and hard limits (largest value allowed) over metrics by name."""

    terms: tuple[Term, ...]
    limits: Mapping[str, float]

    def __post_init__(self) -> None:
        if not any(term.alpha > 0 for term in self.terms):
            raise UserError("every alpha is 0, so all archs score alike; give at least one above 0")

    @classmethod
    def of(cls, **alphas: float) -> Objective:
        """Of metrics in their own units, without limits."""
        return cls(tuple(Term(metric, unit_of(metric), alpha) for metric, alpha in alphas.items()), {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Objective:
        """The inverse of `to_json`. ValueError on anything else."""
        return read_typed(cls, data, "objective")

    def to_json(self) -> dict[str, Any]:
        return {"terms": [asdict(term) for term in self.terms], "limits": dict(self.limits)}

    @property
    def formula(self) -> str:
        """MES in one line: '100 · (latency / 1 ms)^-1 · (parameters / 3 M)^-0.5'."""
        known = ((shown(term.metric), term) for term in self.terms)
        return " · ".join(["100", *(f"({m.name} / {m.text(t.unit)})^-{t.alpha:g}" for m, t in known)])

    def mes(self, metrics: Mapping[str, Any]) -> Any:
        """Score of one arch (metrics are floats) or of many (arrays of one shape)."""
        score: Any = 100.0
        for term in self.terms:
            if term.alpha > 0:
                score = score * (np.asarray(metrics[term.metric]) / term.unit) ** -term.alpha
        return score

    def feasible(self, metrics: Mapping[str, Any]) -> bool:
        return all(metrics[name] <= limit for name, limit in self.limits.items())


# Li et al. 2023, Section 3.6.
PUBLISHED = Objective.of(latency_ms=1.0, num_params=0.5)


def pareto(points: np.ndarray) -> np.ndarray:
    """(n,) mask of the rows of (n, objectives), all to be maximized, that no other row dominates.

    Of equal rows all are kept.
    """
    return np.asarray(~dominance(points).any(axis=1))


def dominance(points: np.ndarray) -> np.ndarray:
    """(n, n) whether the row's point of (n, objectives), all to be maximized, is dominated by the column's."""
    at_least, better = np.ones((len(points),) * 2, dtype=bool), np.zeros((len(points),) * 2, dtype=bool)
    for values in points.T:  # by objective: a reduction over the last axis, of two, takes five times as long
        at_least &= values >= values[:, None]
        better |= values > values[:, None]
    return at_least & better
