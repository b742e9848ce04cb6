"""Which units remain: the least important go, step by step, until the network costs what it may.

A step takes the least important units of one dimension, as many as lead to the next smaller multiple of `round_to`.
Dimensions compete within their group, by the importance of the units of their next step; of all groups the one that has
lost the smallest share goes next. So `global` is one ranking of everything, `local` the same share of every dimension,
and `isomorphic` the same share of dimensions whose tensors have the same layouts, ranked among these alone: units of
different structures have importances that cannot be compared (Fang et al., Isomorphic Pruning for Vision Models, ECCV
2024).

Sizes are exact at every step, so what a step saves is known exactly, at the sizes that the steps before have left.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from nas.networks.importance import Criterion, Scores
from search_spaces.structure.base import Structure
from search_spaces.structure.costs import Costs, Monomials

Metric = Literal["params", "macs"]
Scope = Literal["local", "global", "isomorphic"]
TOLERANCE = 0.02  # of the target; a network this near to it has sizes that are multiples throughout


@dataclass(frozen=True)
class Ranking:
    """How units are compared.

    Args:
        per: what a step's importance is divided by: the parameters, MACs or time that it saves; None: its units.
        round_to: multiples that embeddings, keys, values, FFNs and widths shrink to; heads go one by one.
        ms_per_mac: of each dimension, to rank by time: what a multiply-accumulate costs that goes with it.
    """

    scope: Scope
    per: Literal["params", "macs", "latency"] | None = None
    round_to: int = 8
    ms_per_mac: Mapping[str, float] = field(default_factory=dict)


def default_scope(criterion: Criterion) -> Scope:
    """Taylor importance is a change of the loss, whatever the structure; sizes of weights compare within one only."""
    return "global" if criterion == "taylor" else "isomorphic"


class Unreachable(Exception):  # noqa: N818
    """A target below what the minima and multiples allow.

    Args:
        least: the least cost that they allow.
    """

    def __init__(self, least: int) -> None:
        super().__init__(least)
        self.least = least


def select(
    structure: Structure, scores: Scores, costs: Costs, metric: Metric, limit: int, ranking: Ranking
) -> dict[str, Tensor]:
    """Ascending indices of the units that remain of each dimension, so that the network costs at most `limit`.

    It then costs less by at most 2 % if single units make that possible: sizes are multiples unless only others do.

    Raises:
        Unreachable: no sizes above the minima cost so little.
    """
    sizes = _sizes(structure, scores, costs, metric, limit, ranking)
    order = {name: values.argsort(descending=True, stable=True) for name, values in scores.items()}
    return {name: order[name][:size].sort().values for name, size in sizes.items()}


def groups(structure: Structure, scope: Scope) -> dict[str, int]:
    """A number for each dimension; those of the same number are ranked together."""
    keys: dict[str, object] = {
        d.name: {"global": None, "local": d.name, "isomorphic": None}[scope] for d in structure.dimensions
    }
    if scope == "isomorphic":
        keys = dict(_layouts(structure))
    numbers: dict[object, int] = {}
    return {name: numbers.setdefault(key, len(numbers)) for name, key in keys.items()}


def _layouts(structure: Structure) -> dict[str, object]:
    """What tells dimensions of different structure apart: how the tensors that have them are laid out, by kinds."""
    kinds: dict[object, str] = {d.name: d.kind for d in structure.dimensions}
    found: defaultdict[str, Counter[object]] = defaultdict(Counter)
    for name, axes in structure.axes.items():
        for dimension in {f for layout in axes for segment in layout for f in segment if isinstance(f, str)}:
            shape = tuple(
                tuple(tuple("self" if f == dimension else kinds.get(f, "") for f in segment) for segment in layout)
                for layout in axes
            )
            found[dimension][name.rpartition(".")[2], shape] += 1
    return {d.name: (d.kind, frozenset(found[d.name].items())) for d in structure.dimensions}


# ---- sizes


def _sizes(
    structure: Structure, scores: Scores, costs: Costs, metric: Metric, limit: int, ranking: Ranking
) -> dict[str, int]:
    state = _State(structure, scores, costs, metric, ranking)
    if state.cost <= limit:
        return structure.sizes
    if (least := state.least_cost()) > limit:
        raise Unreachable(least)
    for multiple in (ranking.round_to, 1):
        while state.cost > limit and state.step(multiple, (1 - TOLERANCE) * limit):
            pass
        if state.cost <= limit:
            break
    while state.cost > limit:  # no single unit costs less than 2 %: the least that does
        state.finish(limit)
    return state.sizes


class _State:
    """Sizes on their way down."""

    def __init__(self, structure: Structure, scores: Scores, costs: Costs, metric: Metric, ranking: Ranking) -> None:
        self.dimensions, self.ranking = structure.dimensions, ranking
        names = [d.name for d in self.dimensions]
        self.whole = np.array([d.size for d in self.dimensions])
        self.now = self.whole.copy()
        group_of = groups(structure, ranking.scope)
        self.group = np.array([group_of[name] for name in names])
        self.limited = _Polynomial(costs.monomials(metric), names)
        per = None if ranking.per is None else "params" if ranking.per == "params" else "macs"
        self.saved = None if per is None else _Polynomial(costs.monomials(per), names)  # type: ignore[arg-type]
        timed = ranking.per == "latency"
        self.rate = np.array([ranking.ms_per_mac[name] if timed else 1.0 for name in names])
        # what the k least important units of a dimension amount to together
        ascending = (scores[name].double().sort().values for name in names)
        self.below = [np.concatenate([[0.0], np.cumsum(values.numpy())]) for values in ascending]

    @property
    def sizes(self) -> dict[str, int]:
        return {d.name: int(size) for d, size in zip(self.dimensions, self.now, strict=True)}

    @property
    def cost(self) -> float:
        return float(self.limited(self.now))

    def least_cost(self) -> int:
        return int(self.limited(np.array([min(d.minimum, d.size) for d in self.dimensions])))

    def step(self, multiple: int, floor: float) -> bool:
        """Takes the best next step that does not cost less than `floor`; False if there is none."""
        next_sizes = np.array([self._next(i, multiple) for i in range(len(self.now))])
        after = self._each(self.limited, next_sizes)
        possible = (next_sizes < self.now) & (after >= floor)
        if not possible.any():
            return False
        lost = self._lost()
        possible &= lost[self.group] == lost[self.group[possible]].min()
        prices = np.where(possible, self._prices(next_sizes), np.inf)
        best = int(prices.argmin())
        self.now[best] = next_sizes[best]
        return True

    def finish(self, limit: float) -> None:
        """Takes the single unit that leads nearest to the limit, or the one that saves the most."""
        next_sizes = np.array([self._next(i, 1) for i in range(len(self.now))])
        after = np.where(next_sizes < self.now, self._each(self.limited, next_sizes), np.inf)
        reached = after <= limit
        best = int(np.where(reached, after, -np.inf).argmax() if reached.any() else after.argmin())
        self.now[best] = next_sizes[best]

    def _next(self, i: int, multiple: int) -> int:
        """The next smaller size; the same if there is none."""
        dimension, size = self.dimensions[i], int(self.now[i])
        by = 1 if dimension.kind == "heads" else multiple
        smaller = (size - 1) // by * by
        return smaller if smaller >= max(1, dimension.minimum) else size

    def _lost(self) -> np.ndarray:
        """The share of its units that each group has lost."""
        whole = np.bincount(self.group, self.whole)
        return 1 - np.bincount(self.group, self.now) / whole

    def _prices(self, next_sizes: np.ndarray) -> np.ndarray:
        gone = [
            self.below[i][self.whole[i] - next_sizes[i]] - self.below[i][self.whole[i] - self.now[i]]
            for i in range(len(self.now))
        ]
        if self.saved is None:
            units = np.maximum(self.now - next_sizes, 1)
        else:
            units = (self.saved(self.now) - self._each(self.saved, next_sizes)) * self.rate
        return np.array(gone) / np.where(next_sizes < self.now, units, 1)

    def _each(self, polynomial: _Polynomial, next_sizes: np.ndarray) -> np.ndarray:
        """Costs after each dimension's step alone."""
        table = np.repeat(self.now[None], len(self.now), axis=0)
        np.fill_diagonal(table, next_sizes)
        return polynomial(table)


class _Polynomial:
    """Sums of products of sizes, of many rows of sizes at once."""

    def __init__(self, monomials: Monomials, names: Sequence[str]) -> None:
        number = {name: i for i, name in enumerate(names)}
        degree = max(map(len, monomials))
        self.factors = np.full((len(monomials), degree), len(names))  # the column past the last holds ones
        for row, factors in enumerate(monomials):
            self.factors[row, : len(factors)] = [number[name] for name in factors]
        self.coefficients = np.array(list(monomials.values()), dtype=np.float64)

    def __call__(self, sizes: np.ndarray) -> np.ndarray:
        """(…, dimensions) sizes to (…) costs."""
        padded = np.concatenate([sizes, np.ones_like(sizes[..., :1])], axis=-1).astype(np.float64)
        return padded[..., self.factors].prod(axis=-1) @ self.coefficients
