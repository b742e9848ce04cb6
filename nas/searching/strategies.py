"""The strategies that evaluate a given number of archs, by name."""

from __future__ import annotations

from collections.abc import Sequence

from nas.objective.costs import Costs
from nas.searching.predictor import INITIAL, predictor_search
from nas.searching.samplers import STARTUP, Evaluate, random_search, sampler_search
from search_spaces import Arch, UserError

BUDGETS = {"predictor": 150}  # of the others 500
BEGIN_WITH = {**STARTUP, "predictor": INITIAL}  # archs that are not chosen by what has been evaluated


def explore(
    strategy: str,
    costs: Costs,
    evaluate: Evaluate,
    budget: int,
    seed: int,
    start: Sequence[Arch] = (),
    at_once: int = 1,
) -> None:
    """Any strategy but slimming: what `evaluate` is asked for, all within the limits, is what it finds.

    Args:
        budget: archs to evaluate; it ends earlier where it finds no more.
        start: archs to begin with, for `predictor`.
        at_once: archs that a strategy of `SEQUENTIAL` asks for before it is told of any; others ask for many anyway.
    """
    if strategy == "random":
        random_search(costs, evaluate, budget, seed)
    elif strategy == "predictor":
        predictor_search(costs, evaluate, budget, seed, start)
    else:
        sampler_search(strategy, costs, evaluate, budget, seed, at_once)


def default_budget(strategy: str) -> int:
    """Archs that a strategy evaluates if it is not told."""
    return BUDGETS.get(strategy, 500)


def check_budget(
    strategy: str | None, budget: int | None, costs: Costs | None = None, start: Sequence[Arch] = ()
) -> None:
    """UserError if the strategy would end before it has chosen anything.

    Args:
        costs: with the limits that archs to begin with must be within.
        start: archs to begin with, for `predictor`, which adds the smallest and the largest.
    """
    begin = BEGIN_WITH.get(strategy or "", 0)
    if costs and start:
        first = {costs.space.smallest, costs.space.largest, *start}
        begin = max(begin, int(costs.within(costs.space.encode(list(first))).sum()))
    if budget is not None and budget <= begin:
        raise UserError(
            f"--budget {budget} is too small for {strategy}, which begins with {begin} archs; "
            f"give at least {begin + 1}, or another --strategy"
        )
