from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from nas.objective.costs import Costs
from nas.objective.hypervolume import hypervolume_history
from nas.objective.mes import Objective, Term, pareto
from nas.searching import predictor
from nas.searching.predictor import INITIAL, ROUND, Features, GaussianProcess, _kernel, choose, evolve, predictor_search
from nas.searching.samplers import draw
from search_spaces import Arch, num_params
from tests.nas.tiny import make_table, tiny_space

SPACE = tiny_space()


def costs(**limits: float) -> Costs:
    return Costs(SPACE, {"latency_ms": make_table(SPACE)}, Objective((Term("num_params", 3e6, 1.0),), limits))


def sample(count: int, seed: int = 0) -> np.ndarray:
    return SPACE.encode(draw(costs(), random.Random(seed), count, ()))


# ---- the predictor


def test_predictions_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features, values, new = rng.normal(size=(30, 4)), rng.normal(size=30), rng.normal(size=(7, 4))
    for name, value in (("RATIOS", (2.0,)), ("SCALES", (1.5,)), ("NOISES", (0.1,))):
        monkeypatch.setattr(GaussianProcess, name, value)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        near = [[math.exp(-np.mean((x - y) ** 2) / (2 * 1.5**2)) for y in b] for x in a]
        return np.asarray((2.0 * a @ b.T / 4 + near) / 3.0)

    targets = (values - values.mean()) / values.std()
    inverse = np.linalg.inv(kernel(features, features) + 0.1 * np.eye(30))
    amplitude = targets @ inverse @ targets / 30
    cross = kernel(new, features)
    variance = amplitude * (np.diag(kernel(new, new)) - np.diag(cross @ inverse @ cross.T))
    mean, deviation = GaussianProcess(features, values)(new)
    np.testing.assert_allclose(mean, values.mean() + values.std() * cross @ inverse @ targets, rtol=1e-8)
    np.testing.assert_allclose(deviation, values.std() * np.sqrt(variance), rtol=1e-8)


def test_the_kernel_is_the_likeliest_of_the_grid() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(25, 3))
    values = features @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=25)
    found = GaussianProcess(features, values)
    targets = (values - values.mean()) / values.std()
    likelihoods: dict[tuple[float, float], float] = {}
    for ratio, scale, noise in itertools.product(found.RATIOS, found.SCALES, found.NOISES):
        covariance = _kernel(features, features, ratio, scale) + noise * np.eye(25)
        amplitude = targets @ np.linalg.solve(covariance, targets) / 25
        likelihoods[ratio, scale] = max(
            likelihoods.get((ratio, scale), -np.inf),
            -0.5 * (25 * math.log(amplitude) + np.linalg.slogdet(covariance)[1]),
        )
    assert (found.ratio, found.scale) == max(likelihoods, key=lambda key: likelihoods[key])
    assert found.ratio == 10.0  # the values are linear


def test_kernels_are_compared_on_some_archs_and_the_noise_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(40, 3))
    values = np.sin(2 * features[:, 0]) + features[:, 1]
    new, every = rng.normal(size=(7, 3)), GaussianProcess(features, values)
    monkeypatch.setattr(GaussianProcess, "COMPARED", 8)
    some = GaussianProcess(features, values)
    assert (some.ratio, some.scale) != (every.ratio, every.scale)
    monkeypatch.setattr(GaussianProcess, "RATIOS", (some.ratio,))
    monkeypatch.setattr(GaussianProcess, "SCALES", (some.scale,))
    monkeypatch.setattr(GaussianProcess, "COMPARED", 200)
    np.testing.assert_array_equal(some(new), GaussianProcess(features, values)(new))


def test_values_that_are_all_the_same() -> None:
    mean, deviation = GaussianProcess(np.eye(4), np.full(4, 0.25))(np.zeros((2, 4)))
    assert mean.tolist() == [0.25, 0.25] and np.isfinite(deviation).all()


def test_features_count_options_and_costs() -> None:
    known = sample(50)
    features = Features(costs(), known)
    steps = sum(len(c.options) - 1 for c in SPACE.choices)
    assert features(known).shape == (50, steps + 3)
    np.testing.assert_allclose(features(known).mean(axis=0), 0, atol=1e-9)
    raw = features._raw(known)
    np.testing.assert_array_equal(raw[:, :steps].sum(axis=1), known.sum(axis=1))
    np.testing.assert_allclose(raw[:, steps], np.log(costs().metrics["num_params"](known)))


def test_it_learns_accuracies_of_unseen_archs() -> None:
    def accuracy(positions: np.ndarray) -> np.ndarray:
        return np.asarray(0.9 - 0.5 * np.exp(-positions @ np.random.default_rng(0).random(len(SPACE.choices)) / 10))

    known, unseen = sample(80), sample(100, seed=1)
    features = Features(costs(), known)
    mean, _ = GaussianProcess(features(known), accuracy(known))(features(unseen))
    assert np.sqrt(np.mean((mean - accuracy(unseen)) ** 2)) < 0.1 * accuracy(unseen).std()


# ---- NSGA-II


def test_rank_peels_fronts() -> None:
    points = np.random.default_rng(0).integers(0, 8, (40, 2)).astype(float)
    rank, _ = predictor._rank(points)
    for front in range(rank.max() + 1):
        np.testing.assert_array_equal(pareto(points[rank >= front]), rank[rank >= front] == front)


def test_crowding_is_the_distance_between_the_neighbours() -> None:
    points = np.array([[0.0, 10.0], [1.0, 6.0], [4.0, 5.0], [5.0, 0.0]])
    found = predictor._crowding(points)
    assert np.isinf(found[[0, 3]]).all()
    np.testing.assert_allclose(found[1:3], [4 / 5 + 5 / 10, 4 / 5 + 6 / 10])
    assert np.isinf(predictor._crowding(points[:2])).all()


def test_evolution_finds_the_front() -> None:
    limited = costs(num_params=70000)
    weights = np.random.default_rng(0).random(len(SPACE.choices))

    def score(positions: np.ndarray) -> np.ndarray:
        return np.stack([positions @ weights, -np.log(limited.metrics["num_params"](positions))], axis=1)

    start = SPACE.encode(draw(limited, random.Random(0), 20, ()))
    population = evolve(limited, score, start, np.random.default_rng(0))
    assert limited.within(population).all() and len(population) <= predictor.POPULATION
    assert len({tuple(row) for row in population.tolist()}) == len(population)
    decoded = [SPACE.decode(row) for row in population.tolist()]
    assert None not in decoded
    many = SPACE.encode(draw(limited, random.Random(1), 500, ()))
    reference = np.array([0.0, -np.log(70001)])
    volumes = [hypervolume_history(score(p), reference)[-1] for p in (start, many, population)]
    assert volumes[2] > volumes[1] > volumes[0]


# ---- what is evaluated next


def test_gains_are_what_each_adds_to_the_hypervolume() -> None:
    rng = np.random.default_rng(0)
    points, candidates = rng.random((12, 2)), 1.2 * rng.random((40, 2))
    reference = points.min(axis=0)
    before = hypervolume_history(points, reference)[-1]
    expected = [hypervolume_history(np.vstack([points, c]), reference)[-1] - before for c in candidates]
    np.testing.assert_allclose(predictor._gains(candidates, points[pareto(points)], reference), expected, atol=1e-12)


def test_the_chosen_add_the_most_one_after_another() -> None:
    points = np.array([[0.0, 1.0], [1.0, 0.0]])
    hoped = np.array([[0.5, 0.5], [0.9, 0.9], [0.95, 0.8], [0.2, 0.99], [0.1, 0.1]])
    assert choose(hoped, points, 2) == [1, 2]
    assert choose(hoped, points, 9) == [1, 2, 3]  # the others are dominated
    assert choose(hoped[:0], points, 9) == []


def test_a_search_begins_with_what_it_is_given() -> None:
    asked: list[list[Arch]] = []

    def evaluate(archs):
        asked.append(list(archs))
        return [0.5 + i / 100 for i in range(len(archs))]

    start = [SPACE.largest, *(action.arch for action in SPACE.slim(SPACE.largest))]
    predictor_search(costs(), evaluate, 30, 0, start)
    assert asked[0][:2] == [SPACE.smallest, SPACE.largest] and set(start) <= set(asked[0])
    assert len(asked[0]) == predictor.INITIAL and sum(map(len, asked)) == 30
    asked.clear()
    limited = costs(num_params=60000)
    predictor_search(limited, evaluate, 30, 0, start)
    assert not set(start) & set(asked[0]) and asked[0][0] == SPACE.smallest


def test_under_a_limit_the_most_accurate_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near the limit a network adds little hypervolume, however accurate it is: half of a round goes there."""
    limited = costs(num_params=0.6 * num_params(SPACE, SPACE.largest))
    asked: list[Arch] = []

    def larger_is_better(archs: Sequence[Arch]) -> list[float]:
        asked.extend(archs)
        return [0.5 + 1e-7 * num_params(SPACE, arch) for arch in archs]

    monkeypatch.setattr(predictor, "choose", lambda hoped, points, count: np.argsort(hoped[:, 0])[:count].tolist())
    predictor_search(limited, larger_is_better, INITIAL + ROUND, seed=0)
    first, last = asked[:INITIAL], asked[INITIAL:]
    best = max(num_params(SPACE, arch) for arch in first)
    assert len(last) == ROUND and sum(num_params(SPACE, arch) > 0.9 * best for arch in last) >= ROUND // 2
