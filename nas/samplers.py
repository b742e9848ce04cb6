"""Strategies that draw archs: at random, or by Optuna's samplers.

Each is a function of the costs, the accuracies it is told, its budget and its seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

from nas.costs import Costs
from search_spaces import Arch

Evaluate = Callable[[Sequence[Arch]], list[float]]
TRIES = 1000  # of drawing an arch that is new, before the space counts as exhausted
SAMPLES = 20  # of these, at random; then from outside the limits into them


def random_search(costs: Costs, evaluate: Evaluate, budget: int, seed: int) -> None:
    """`SearchSpace.sample`, without repeats and within the limits."""
    rng = random.Random(seed)
    archs: dict[Arch, None] = {}
    while len(archs) < budget and (arch := draw(costs, rng, archs)):
        archs[arch] = None
    evaluate(list(archs))


def draw(costs: Costs, rng: random.Random, known: Collection[Arch]) -> Arch | None:
    """A random arch within the limits that is not known; None if many tries find none.

    Where limits are so tight that samples do not meet them, one is slimmed by random actions until it does.
    """
    space = costs.space
    for i in range(TRIES):
        arch: Arch | None = space.sample(rng)
        while arch and not costs.within(space.encode([arch]))[0]:
            actions = space.slim(arch) if i >= SAMPLES else ()
            arch = rng.choice(actions).arch if actions else None
        if arch and arch not in known:
            return arch
    return None
