"""Mobile Efficiency Score (Li et al. 2023, equation 1): MES = 100 · Π (Mᵢ / Uᵢ)^(−αᵢ) over named metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces import UserError

# One unit of each metric: the latency and size of MobileNetV2 on an iPhone 12 (Section 3.6), and its MACs.
UNITS = {"latency_ms": 1.0, "num_params": 3e6, "macs": 300e6}


@dataclass(frozen=True)
class Term:
    """`(metric / unit) ** -alpha`; alpha 0 leaves the metric out."""

    metric: str
    unit: float
    alpha: float

    def __post_init__(self) -> None:
        if not (self.unit > 0 and np.isfinite(self.unit)):
            raise UserError(f"unit of {self.metric} is {self.unit}; give a number above 0")
        if not (self.alpha >= 0 and np.isfinite(self.alpha)):
            raise UserError(f"alpha of {self.metric} is {self.alpha}; give a number from 0 on")


@dataclass(frozen=True)
class Objective:
    """The score and hard limits (largest value allowed) over metrics by name."""

    terms: tuple[Term, ...]
    limits: Mapping[str, float]

    def __post_init__(self) -> None:
        if not any(term.alpha > 0 for term in self.terms):
            raise UserError("every alpha is 0, so all archs score alike; give at least one above 0")

    def mes(self, metrics: Mapping[str, Any]) -> Any:
        """Score of one arch (metrics are floats) or of many (arrays of one shape)."""
        score: Any = 100.0
        for term in self.terms:
            if term.alpha > 0:
                score = score * (np.asarray(metrics[term.metric]) / term.unit) ** -term.alpha
        return score

    def feasible(self, metrics: Mapping[str, Any]) -> bool:
        return all(metrics[name] <= limit for name, limit in self.limits.items())


def pareto(points: np.ndarray) -> np.ndarray:
    """(n,) mask of the rows of (n, objectives), all to be maximized, that no other row dominates.

    Of equal rows all are kept.
    """
    others = points[None, :, :]
    at_least = np.all(others >= points[:, None, :], axis=2)
    better = np.any(others > points[:, None, :], axis=2)
    return np.asarray(~np.any(at_least & better, axis=1))
