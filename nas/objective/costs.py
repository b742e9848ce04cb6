"""What archs cost, without a model, and whether a space holds any that is within the limits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import ROUND_CEILING, Context
from typing import Any

import numpy as np

from latency_lut.tables.table import LatencyTable
from nas.objective.goals import limit_flag
from nas.objective.mes import Objective
from nas.objective.metrics import block_metrics
from search_spaces import Arch, SearchSpace, UserError

Cost = Callable[[np.ndarray], np.ndarray]


class Costs:
    """The metrics and MES of archs.

    Args:
        tables: by the metrics that they are.
        precision: that activations are held in, one of ACTIVATION_BYTES.
    """

    def __init__(
        self,
        space: SearchSpace,
        tables: Mapping[str, LatencyTable],
        objective: Objective,
        precision: str = "float32",
    ) -> None:
        self.space, self.objective = space, objective
        self.metrics: dict[str, Cost] = {metric.key: metric.cost(space, precision) for metric in block_metrics()}
        self.metrics |= {metric: table.predictor(space) for metric, table in tables.items()}

    def encoded(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric and `mes`, (archs,) each, of (archs, choices) positions from `SearchSpace.encode`.

        There is no `mes` where one of its metrics is a latency without a table.
        """
        metrics = {name: cost(positions) for name, cost in self.metrics.items()}
        known = all(term.metric in metrics for term in self.objective.terms)
        return {**metrics, "mes": self.objective.mes(metrics)} if known else metrics

    def batch(self, archs: Sequence[Arch]) -> dict[str, np.ndarray]:
        return self.encoded(self.space.encode(archs))

    def one(self, arch: Arch) -> dict[str, Any]:
        metrics = {name: float(values[0]) for name, values in self.batch([arch]).items()}
        return {**metrics, **{m.key: round(metrics[m.key]) for m in block_metrics() if m.whole}}

    def excess(self, positions: np.ndarray) -> np.ndarray:
        """(archs, limits) logarithms of the limited metrics over their limits, in the order of `objective.limits`."""
        return _excess(positions, self.metrics, self.objective.limits)

    def within(self, positions: np.ndarray) -> np.ndarray:
        """(archs,) mask of those within all limits."""
        return np.asarray(np.all(self.excess(positions) <= 0, axis=1))


def check_limits(costs: Costs, only: Collection[str] = ()) -> None:
    """Looks for an arch within the limits on the metrics that are known (without a table, latency is not).

    If the smallest network is not, descents look for the least value of each limited metric, and then for the least
    excess over all limits at once.

    Args:
        only: fields of the choices that the largest network may shrink by; none: all.

    Raises:
        UserError: there is none; the message has the nearest values.
    """
    space, known = costs.space, costs.metrics
    limits = {name: limit for name, limit in costs.objective.limits.items() if name in known}
    ends, free = _ends(space, only)
    if np.all(_excess(ends[:1], known, limits) <= 0):
        return
    network = f"no network that --only {' '.join(only)} leads to" if only else "no network"
    least = {name: float(known[name](_descend(space, known[name], ends, free))[0]) for name in limits}
    if broken := {name: limit for name, limit in limits.items() if least[name] > limit}:
        values = (f"{n} of at most {limit:g}, the smallest is {rounded_up(least[n])}" for n, limit in broken.items())
        flags = ", ".join(dict.fromkeys(map(limit_flag, broken)))
        raise UserError(f"{'; '.join(f'{network} has {value}' for value in values)}; raise {flags}")
    nearest = _nearest(space, known, limits, ends, free)
    if np.any(_excess(nearest, known, limits) > 0):
        found = ", ".join(f"{n} of {rounded_up(known[n](nearest)[0])} (limit {limit:g})" for n, limit in limits.items())
        raise UserError(f"{network} is within all limits at once, the nearest has {found}; raise one of them")


def find_within(costs: Costs) -> Arch | None:
    """The arch within all limits that `check_limits` finds; None if it finds none. Every metric limited is known."""
    space, limits = costs.space, costs.objective.limits
    if costs.within(space.encode([space.smallest]))[0]:
        return space.smallest
    nearest = _nearest(space, costs.metrics, limits, *_ends(space))
    return space.decode(nearest[0].tolist()) if costs.within(nearest)[0] else None


def rounded_up(value: float) -> str:
    """To six digits, so that the value itself is within a limit of what is shown."""
    return f"{float(Context(prec=6, rounding=ROUND_CEILING).create_decimal(value)):.10g}"


def _ends(space: SearchSpace, only: Collection[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """(2, choices) positions of the smallest network and of the largest, (choices,) mask of those that may change."""
    free = np.array([not only or choice.field in only for choice in space.choices])
    smallest, largest = space.encode([space.smallest, space.largest])
    return np.stack([np.where(free, smallest, largest), largest]), free


def _nearest(
    space: SearchSpace, metrics: Mapping[str, Cost], limits: Mapping[str, float], ends: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """(1, choices) positions of the least excess over all limits at once."""

    def excess(positions: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(_excess(positions, metrics, limits), 0).sum(axis=1))

    return _descend(space, excess, ends, free)


def _excess(positions: np.ndarray, metrics: Mapping[str, Cost], limits: Mapping[str, float]) -> np.ndarray:
    columns = [np.log(metrics[name](positions) / limit) for name, limit in limits.items()]
    return np.stack(columns, axis=1) if columns else np.zeros((len(positions), 0))


def _descend(space: SearchSpace, score: Cost, ends: np.ndarray, free: np.ndarray) -> np.ndarray:
    """(1, choices) positions of the least score that changing one choice at a time leads to.

    From the smallest network and from the largest: where a device is not faster for every narrower block, neither way
    alone need end at the least.

    Args:
        ends: (2, choices) positions of these networks.
        free: (choices,) mask of those that may change.
    """
    found = [_descend_from(space, score, end, free) for end in np.split(ends, 2)]
    return min(found, key=lambda positions: float(score(positions)[0]))


def _descend_from(space: SearchSpace, score: Cost, positions: np.ndarray, free: np.ndarray) -> np.ndarray:
    while True:
        changes = [(i, p) for i in np.flatnonzero(free) for p in range(len(space.choices[i].options))]
        near = np.repeat(positions, len(changes), axis=0)
        near[np.arange(len(near)), [i for i, _ in changes]] = [p for _, p in changes]
        scores, current = score(near), score(positions)[0]
        order = np.argsort(scores, kind="stable")
        better = (i for i in order[scores[order] < current] if space.decode(near[i]) is not None)
        best = next(better, None)
        if best is None:
            return positions
        positions = near[best : best + 1]
