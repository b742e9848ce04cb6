"""Which of the networks found are retrained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import floor
from typing import Any

import numpy as np

from nas.objective.costs import rounded_up
from nas.objective.mes import Objective, pareto
from search_spaces import UserError

Json = dict[str, Any]


def pick_winners(points: Sequence[Json], objective: Objective, min_accuracy: float | None, count: int) -> list[Json]:
    """The Pareto set of what is within the limits, spread evenly over log MES from the most accurate to the best MES.

    Raises:
        UserError: none is within the limits; the message names each limit's nearest feasible value.
    """
    allowed = [p for p in points if objective.feasible(p)]
    if not allowed:
        raise UserError(_infeasible(objective, points))
    enough = [p for p in allowed if p["accuracy"] >= (min_accuracy or 0)]
    if not enough:
        best = floor(1e4 * max(p["accuracy"] for p in allowed)) / 1e4  # so that it is reached
        raise UserError(f"no network found reaches accuracy {min_accuracy}; the best within the limits has {best:.4f}")
    front = pareto(np.array([[p["accuracy"], p["mes"]] for p in enough]))
    feasible = [point for point, on_front in zip(enough, front, strict=True) if on_front]
    feasible.sort(key=lambda p: p["mes"])
    scores = np.log([p["mes"] for p in feasible])
    targets = np.linspace(scores[0], scores[-1], count) if count > 1 else scores[:1]
    nearest = dict.fromkeys(int(np.abs(scores - t).argmin()) for t in targets)
    return [feasible[i] for i in nearest]


def name_winners(chosen: Sequence[Json], earlier: Sequence[Json], prefix: str) -> list[Json]:
    """Winners under the names that their archs have had in this search; new archs have the numbers after these."""
    names = {json.dumps(winner["arch"]): winner["name"] for winner in earlier}
    named = []
    for point in chosen:
        name = names.setdefault(json.dumps(point["arch"]), f"{prefix}-{len(names) + 1}")
        named.append({"name": name, **point})
    return named


def _infeasible(objective: Objective, points: Sequence[Json]) -> str:
    """The space has networks within the limits, or the search would not have begun."""
    least = {name: min(p[name] for p in points) for name in objective.limits}
    broken = {name: limit for name, limit in objective.limits.items() if least[name] > limit}
    remedy = "search on with more --budget, without --only or with another --strategy, or relax the limit"
    if not broken:
        return f"no network found is within all limits at once ({', '.join(objective.limits)}); {remedy}"
    found = (f"{n} of at most {limit:g}, the smallest has {rounded_up(least[n])}" for n, limit in broken.items())
    return f"no network found has {' and '.join(found)}; {remedy}"
