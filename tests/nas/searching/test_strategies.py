from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pytest

from nas.objective.costs import Costs, check_limits
from nas.objective.hypervolume import hypervolume_history
from nas.objective.mes import Objective, Term
from nas.searching.samplers import PATIENCE, SEQUENTIAL, STARTUP, draw
from nas.searching.strategies import BEGIN_WITH, check_budget, explore
from search_spaces import Arch, SearchSpace, UserError, get_space, num_params
from tests.nas.tiny import tiny_space

SPACE = tiny_space()
STRATEGIES = ("random", "nsga2", "tpe", "gp", "predictor")
# Optuna's Gaussian process takes longer than all others together.
strategies = pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=pytest.mark.heavy) if name == "gp" else name for name in STRATEGIES]
)
BUDGETS = {"random": 40, "nsga2": 120, "tpe": 30, "gp": 12, "predictor": 50}


def costs(space: SearchSpace = SPACE, **limits: float) -> Costs:
    return Costs(space, {}, Objective((Term("num_params", 3e6, 1.0),), limits))


def additive(arch: Arch, space: SearchSpace = SPACE) -> float:
    """Every choice adds its own share; the more of it, the less each further option adds."""
    rng = random.Random(0)
    shares = [rng.random() * math.sqrt(c.options.index(v)) for c, v in zip(space.choices, arch.values, strict=True)]
    return 0.9 - 0.6 * math.exp(-sum(shares) / 5)


def found_by(
    strategy: str, limited: Costs, budget: int, seed: int = 0, accuracy: Callable[[Arch], float] = additive
) -> list[Arch]:
    found: list[Arch] = []

    def evaluate(archs: Sequence[Arch]) -> list[float]:
        assert archs
        found.extend(archs)
        return [accuracy(arch) for arch in archs]

    explore(strategy, limited, evaluate, budget, seed)
    return found


@strategies
def test_the_budget_is_spent_on_different_archs_within_the_limits(strategy: str) -> None:
    limited = costs(num_params=60000, macs=250000)
    found = found_by(strategy, limited, BUDGETS[strategy])
    assert len(found) == len(set(found)) == BUDGETS[strategy]
    assert limited.within(SPACE.encode(found)).all()
    assert all(SPACE.canonical(arch.values) == arch.values for arch in found)


@strategies
def test_it_is_a_function_of_the_seed_and_of_the_accuracies(strategy: str) -> None:
    budget = BUDGETS[strategy]
    found = found_by(strategy, costs(), budget)
    assert found_by(strategy, costs(), budget) == found
    assert found_by(strategy, costs(), budget, seed=1) != found
    if strategy != "random":
        other = found_by(strategy, costs(), budget, accuracy=lambda arch: 1 - additive(arch))
        assert other != found
        assert other[: BEGIN_WITH[strategy]] == found[: BEGIN_WITH[strategy]]


@pytest.mark.parametrize(("strategy", "budget"), [("nsga2", 400), ("tpe", 100), ("predictor", 50)])
def test_it_finds_better_networks_than_chance(strategy: str, budget: int) -> None:
    space = get_space("efficientformerv2-nano")
    reference = np.array([0.3, -math.log(num_params(space, space.largest))])

    def hypervolume(name: str) -> float:
        found = found_by(name, costs(space), budget, accuracy=lambda arch: additive(arch, space))
        points = [[additive(arch, space), -math.log(num_params(space, arch))] for arch in found]
        return float(hypervolume_history(np.array(points), reference)[-1])

    assert hypervolume(strategy) > hypervolume("random")


@strategies
def test_it_ends_where_the_space_does(strategy: str) -> None:
    """Limits leave fewer archs than the budget."""
    smallest = num_params(SPACE, SPACE.smallest)
    limited = costs(num_params=smallest * 1.005)
    within = set(draw(limited, random.Random(7), 10**6, ()))
    assert SPACE.smallest in within and 1 < len(within) < BUDGETS[strategy]
    assert set(found_by(strategy, limited, BUDGETS[strategy])) == within


def test_samples_are_brought_within_tight_limits() -> None:
    space = get_space("efficientformerv2-nano")
    tight = 1.02 * num_params(space, space.smallest)
    limited = costs(space, num_params=tight)
    found = draw(limited, random.Random(0), 5, ())
    assert len(found) == 5 and limited.within(space.encode(found)).all()
    assert not set(draw(limited, random.Random(0), 5, found)) & set(found)


@strategies
def test_a_limit_that_only_one_network_meets(strategy: str) -> None:
    """As a user raises a limit to the least value, which the error names."""
    only = SPACE.sample(random.Random(3))
    limited = costs(latency_ms=1.0)
    limited.metrics["latency_ms"] = lambda positions: 1.0 + np.abs(positions - SPACE.encode([only])).sum(axis=1)
    check_limits(limited)
    assert found_by(strategy, limited, BUDGETS[strategy]) == [only]


@strategies
def test_limits_that_no_network_meets(strategy: str) -> None:
    assert found_by(strategy, costs(num_params=1), BUDGETS[strategy]) == []


def test_a_sampler_is_told_everything_that_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats with the accuracy that is known, archs outside the limits with what they exceed."""
    made = []
    create = optuna.create_study

    def kept(**options: Any) -> optuna.Study:
        made.append(create(**options))
        return made[-1]

    monkeypatch.setattr(optuna, "create_study", kept)
    limited = costs(num_params=60000)
    found = found_by("nsga2", limited, 120)
    (study,) = made
    told = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(told) % STARTUP["nsga2"] == 0 and len(told) <= (2 + PATIENCE) * len(found)
    outside = 0
    for trial in told:
        arch = SPACE.decode(tuple(trial.params.values()))
        if arch is None:
            continue
        (excess,) = trial.constraints.values()
        assert excess == pytest.approx(math.log(num_params(SPACE, arch) / 60000))
        outside += excess > 0
        assert excess > 0 or trial.values[0] == additive(arch)
        assert trial.values[1] == pytest.approx(math.log(100 * 3e6 / num_params(SPACE, arch)))
    assert outside


def test_budgets_that_leave_nothing_to_choose() -> None:
    for strategy, least in (("random", 1), ("slimming", 1), ("nsga2", 51), ("tpe", 11), ("gp", 11), ("predictor", 21)):
        check_budget(strategy, least)
        check_budget(strategy, None)
        if least > 1:
            message = f"--budget {least - 1} is too small for {strategy}, which begins with .* give at least {least}"
            with pytest.raises(UserError, match=message):
                check_budget(strategy, least - 1)


def test_a_budget_is_more_than_the_different_archs_within_the_limits_that_it_begins_with() -> None:
    rng = random.Random(0)
    seeds = list({SPACE.sample(rng): None for _ in range(60)})
    limited = costs(num_params=float(np.median([num_params(SPACE, arch) for arch in seeds])))
    begin = int(limited.within(SPACE.encode([SPACE.smallest, SPACE.largest, *seeds])).sum())
    assert BEGIN_WITH["predictor"] < begin < len(seeds)
    check_budget("predictor", begin + 1, limited, [*seeds, *seeds, SPACE.smallest])
    with pytest.raises(
        UserError, match=f"--budget {begin} is too small for predictor, which begins with {begin} archs"
    ):
        check_budget("predictor", begin, limited, seeds)
    check_budget("predictor", 21, costs(), [SPACE.largest] * 60)


@strategies
def test_several_archs_at_once(strategy: str) -> None:
    """Where each arch depends on those before it, that many are asked for; elsewhere it changes nothing."""
    batches: list[list[Arch]] = []

    def evaluate(archs: Sequence[Arch]) -> list[float]:
        batches.append(list(archs))
        return [additive(arch) for arch in archs]

    budget = BUDGETS[strategy]
    explore(strategy, costs(), evaluate, budget, 0, at_once=3)
    found = [arch for batch in batches for arch in batch]
    assert len(found) == len(set(found)) == budget
    if strategy in SEQUENTIAL:
        assert max(map(len, batches)) == 3 and found != found_by(strategy, costs(), budget)
        again = batches.copy()
        batches.clear()
        explore(strategy, costs(), evaluate, budget, 0, at_once=3)
        assert batches == again
    else:
        assert found == found_by(strategy, costs(), budget)
