"""Predictor-guided evolution in rounds, the way of LINAS (Cummings et al., A Hardware-Aware Framework for Accelerating
Neural Architecture Search Across Modalities, 2022, Algorithm 1).

Each round fits a predictor of accuracy to all that has been evaluated, evolves a population on it with NSGA-II (Deb et
al. 2002), which costs milliseconds, and evaluates the few archs that promise the most hypervolume.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from nas.objective.costs import Costs
from nas.objective.mes import dominance, pareto
from nas.objective.metrics import block_metrics
from nas.searching.samplers import Evaluate, draw
from search_spaces import Arch, SearchSpace

INITIAL = 20  # archs evaluated before there is a predictor, the smallest and the largest among them
ROUND = 10  # archs evaluated between two fits
POPULATION, GENERATIONS = 100, 40
OPTIMISM = 0.5  # standard deviations above the mean that an arch is hoped to reach

Score = Callable[[np.ndarray], np.ndarray]


def predictor_search(costs: Costs, evaluate: Evaluate, budget: int, seed: int, start: Sequence[Arch] = ()) -> None:
    """
    Args:
        start: archs to begin with; those within the limits are evaluated first.
    """
    rng, draws = np.random.default_rng(seed), random.Random(seed)
    known: dict[Arch, float] = {}
    new = _initial(costs, draws, start)[:budget]
    while new:
        known |= zip(new, evaluate(new), strict=True)
        new = _next(costs, known, rng)[: budget - len(known)]
        if len(known) < budget and not new:
            new = draw(costs, draws, min(ROUND, budget - len(known)), known)


def _initial(costs: Costs, rng: random.Random, start: Sequence[Arch]) -> list[Arch]:
    space = costs.space
    first = list(dict.fromkeys([space.smallest, space.largest, *start]))
    first = [arch for arch, within in zip(first, costs.within(space.encode(first)), strict=True) if within]
    return [*first, *draw(costs, rng, INITIAL - len(first), first)]


def _next(costs: Costs, known: dict[Arch, float], rng: np.random.Generator) -> list[Arch]:
    """The archs of the next round."""
    space = costs.space
    encoded, accuracies = space.encode(list(known)), np.array(list(known.values()))
    points = np.stack([accuracies, np.log(costs.encoded(encoded)["mes"])], axis=1)
    features = Features(costs, encoded)
    process = GaussianProcess(features(encoded), accuracies)

    def score(positions: np.ndarray) -> np.ndarray:
        mean, deviation = process(features(positions))
        # Rounded: sums in another order, as with another number of threads, must not decide between equal archs.
        hoped = np.round(mean + OPTIMISM * deviation, 9)
        return np.stack([hoped, np.log(costs.encoded(positions)["mes"])], axis=1)

    population = evolve(costs, score, encoded[_best(points, POPULATION)], rng)
    seen = set(map(tuple, encoded.tolist()))
    fresh = population[[tuple(row) not in seen for row in population.tolist()]]
    hoped = score(fresh)
    chosen = choose(hoped, points, ROUND)
    if costs.objective.limits:  # what is wanted then is the most accurate; near a limit it adds little hypervolume
        most_accurate = np.argsort(-hoped[:, 0], kind="stable")[: ROUND // 2].tolist()
        chosen = list(dict.fromkeys([*most_accurate, *chosen]))[:ROUND]
    archs = (space.decode(row) for row in fresh[chosen].tolist())
    return [arch for arch in archs if arch is not None]


class Features:
    """Archs as the Gaussian process sees them, standardized over those known.

    Each choice counts its options from the smallest up to the one taken (a value for each option but the smallest: 1 if
    it is reached), so that neighbouring options are near and yet each step may have a size of its own; then the
    logarithms of all costs but memory, which most choices leave as it is.
    """

    def __init__(self, costs: Costs, known: np.ndarray) -> None:
        self.costs = costs
        self.steps = [(i, p) for i, c in enumerate(costs.space.choices) for p in range(1, len(c.options))]
        self.without = {metric.key for metric in block_metrics() if metric.largest}  # it says little of the network
        raw = self._raw(known)
        self.mean, self.deviation = raw.mean(axis=0), raw.std(axis=0)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """(archs, features)."""
        return (self._raw(positions) - self.mean) / np.where(self.deviation > 0, self.deviation, 1.0)

    def _raw(self, positions: np.ndarray) -> np.ndarray:
        choices, least = np.array(self.steps).T
        logs = [np.log(cost(positions)) for key, cost in self.costs.metrics.items() if key not in self.without]
        return np.concatenate([positions[:, choices] >= least, np.stack(logs, axis=1)], axis=1)


class GaussianProcess:
    """Regression with a linear and a squared-exponential kernel, added, both of all features alike.

    The kernels' ratio, the length scale and the noise are those of the greatest marginal likelihood on a grid
    (Rasmussen and Williams 2006, equation 2.30); one eigendecomposition serves all noises. Ratios and scales are
    compared on `COMPARED` of the archs at most: on all of them that took longer than all else in a search.

    Args:
        features: (archs, features), standardized.
        values: (archs,).
    """

    RATIOS = (0.1, 1.0, 10.0)
    SCALES = (0.5, 1.0, 2.0, 4.0)
    NOISES = tuple(float(10.0**e) for e in np.arange(-4, 1.1, 0.5))
    COMPARED = 200

    def __init__(self, features: np.ndarray, values: np.ndarray) -> None:
        self.features, self.mean, self.deviation = features, values.mean(), values.std() or 1.0
        targets = (values - self.mean) / self.deviation
        count = len(targets)
        some = np.linspace(0, count - 1, min(count, self.COMPARED)).astype(int)  # early and late ones
        kernels = list(product(self.RATIOS, self.SCALES))
        fits = [
            _fit(_kernel(features[some], features[some], *kernel), targets[some], self.NOISES) for kernel in kernels
        ]
        self.ratio, self.scale = kernels[int(np.argmin([fit.loss for fit in fits]))]
        fit = _fit(_kernel(features, features, self.ratio, self.scale), targets, self.NOISES)
        self.amplitude, self.whiten = fit.amplitude, fit.whiten
        self.weights = self.whiten @ (self.whiten.T @ targets)

    def __call__(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(archs,) means and standard deviations, without the noise."""
        kernel = _kernel(features, self.features, self.ratio, self.scale)
        own = (self.ratio * np.mean(features**2, axis=1) + 1) / (1 + self.ratio)
        variance = own - np.sum((kernel @ self.whiten) ** 2, axis=1)
        deviation = np.sqrt(self.amplitude * np.maximum(variance, 0))
        return self.mean + self.deviation * (kernel @ self.weights), self.deviation * deviation


def _kernel(one: np.ndarray, other: np.ndarray, ratio: float, scale: float) -> np.ndarray:
    """(n, features) and (m, features) -> (n, m)."""
    products = one @ other.T / one.shape[1]
    norms = np.mean(one**2, axis=1)[:, None] + np.mean(other**2, axis=1)
    near = np.exp(-np.maximum(norms - 2 * products, 0) / (2 * scale**2))
    return np.asarray((ratio * products + near) / (1 + ratio))


@dataclass(frozen=True)
class _Fit:
    """
    Args:
        loss: minus the logarithm of the marginal likelihood, doubled, up to a constant.
        amplitude: of the kernel.
        whiten: (n, n), its product with its transpose is the inverse of the kernel with noise.
    """

    loss: float
    amplitude: float
    whiten: np.ndarray


def _fit(kernel: np.ndarray, targets: np.ndarray, noises: Sequence[float]) -> _Fit:
    """With the noise of the greatest marginal likelihood."""
    eigenvalues, vectors = np.linalg.eigh(kernel)
    spreads = np.maximum(eigenvalues, 0) + np.array(noises)[:, None]  # (noises, n)
    amplitudes = np.mean((vectors.T @ targets) ** 2 / spreads, axis=1)
    losses = len(targets) * np.log(amplitudes + 1e-300) + np.log(spreads).sum(axis=1)
    best = int(np.argmin(losses))
    return _Fit(float(losses[best]), float(amplitudes[best]), vectors / np.sqrt(spreads[best]))


# ---- evolution


def evolve(costs: Costs, score: Score, start: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """NSGA-II from (archs, choices) positions on: uniform crossover, one mutation in the mean, within the limits.

    Args:
        score: (archs, 2) objectives of positions, both to be maximized.

    Returns:
        The last population, each arch once, at most `POPULATION`.
    """
    space = costs.space
    options = np.array([len(choice.options) for choice in space.choices])
    population, points = start, score(start)
    for _ in range(GENERATIONS):
        rank, crowding = _rank(points)
        pairs = rng.integers(len(population), size=(2, 2, POPULATION))  # two parents, each the better of two
        first_better = (rank[pairs[:, 0]] < rank[pairs[:, 1]]) | (
            (rank[pairs[:, 0]] == rank[pairs[:, 1]]) & (crowding[pairs[:, 0]] >= crowding[pairs[:, 1]])
        )
        one, other = np.where(first_better, pairs[:, 0], pairs[:, 1])
        shape = (POPULATION, len(options))
        children = np.where(rng.random(shape) < 0.5, population[one], population[other])
        children = np.where(rng.random(shape) < 1 / len(options), rng.integers(options, size=shape), children)
        children = _new_archs(space, children, population)
        children = children[costs.within(children)]
        if len(children) == 0:
            continue
        population, points = np.concatenate([population, children]), np.concatenate([points, score(children)])
        kept = _best(points, POPULATION)
        population, points = population[kept], points[kept]
    return population


def _new_archs(space: SearchSpace, positions: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Positions in canonical form, each arch once, without those that build no network or are known."""
    seen = set(map(tuple, known.tolist()))
    drawn = (row for row in dict.fromkeys(map(tuple, positions.tolist())) if row not in seen)
    archs = [arch for arch in map(space.decode, drawn) if arch is not None]
    rows = [row for row in dict.fromkeys(map(tuple, space.encode(archs).tolist())) if row not in seen]
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(space.choices))


def _best(points: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` best: by front, the last front by crowding distance."""
    rank, crowding = _rank(points)
    return np.lexsort((-crowding, rank))[:count]


def _rank(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) number of each point's front (0: dominated by none) and its crowding distance there."""
    rank, crowding = np.full(len(points), -1), np.zeros(len(points))
    dominated = dominance(points)
    dominators = dominated.sum(axis=1)  # that are not in a front yet
    for front in range(len(points)):
        members = np.flatnonzero((rank < 0) & (dominators == 0))
        if len(members) == 0:
            break
        rank[members], crowding[members] = front, _crowding(points[members])
        dominators -= dominated[:, members].sum(axis=1)
    return rank, crowding


def _crowding(points: np.ndarray) -> np.ndarray:
    """(n,) sum over the objectives of the distance between a point's two neighbours, the range being 1."""
    total = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        gaps = np.concatenate([[np.inf], column[order][2:] - column[order][:-2], [np.inf]])[: len(points)]
        total[order] += gaps / max(np.ptp(column), 1e-12)
    return total


def choose(hoped: np.ndarray, points: np.ndarray, count: int) -> list[int]:
    """Indices of the candidates that, one after another, add the most hypervolume to the front; only such as add any.

    Args:
        hoped: (candidates, 2) objectives to be maximized.
        points: (n, 2) those known.
    """
    reference = points.min(axis=0)
    front, chosen = points, list[int]()
    while len(chosen) < count:
        gains = _gains(hoped, front[pareto(front)], reference)
        gains[chosen] = 0
        best = int(np.argmax(gains)) if len(gains) else 0
        if len(gains) == 0 or gains[best] <= 0:
            break
        chosen.append(best)
        front = np.concatenate([front, hoped[best : best + 1]])
    return chosen


def _gains(candidates: np.ndarray, front: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(candidates,) area that each alone adds above the reference: in the strip below each point of the front, and
    beyond the last, its width there times its height over that point."""
    order = np.argsort(front[:, 0])
    ends, heights = np.append(front[order, 0], np.inf), np.append(front[order, 1], reference[1])
    starts = np.append(reference[0], ends[:-1])
    width = np.maximum(np.minimum(candidates[:, :1], ends) - starts, 0)
    return np.asarray(np.sum(width * np.maximum(candidates[:, 1:] - heights, 0), axis=1))
