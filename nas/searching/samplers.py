"""Strategies that draw archs: at random, or by Optuna's samplers.

Each is a function of the costs, the accuracies it is told, its budget and its seed.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from nas.objective.costs import Costs, find_within
from search_spaces import Arch, SearchSpace

Evaluate = Callable[[Sequence[Arch]], list[float]]
BATCH = {"nsga2": 50, "random": 50}  # archs drawn before any is evaluated: NSGA-II's generation
SEQUENTIAL = ("tpe", "gp")  # each arch depends on all before it
STARTUP = {"nsga2": 50, "tpe": 10, "gp": 10}  # random archs that it begins with
PATIENCE = 10  # batches without a new arch, before random ones are put in
TRIES = 200  # of drawing a new arch, before the space counts as exhausted
SAMPLES = 20  # of these, at random; then from outside the limits into them


def random_search(costs: Costs, evaluate: Evaluate, budget: int, seed: int) -> None:
    """`SearchSpace.sample`, without repeats and within the limits."""
    rng, known = random.Random(seed), set[Arch]()
    while new := draw(costs, rng, min(BATCH["random"], budget - len(known)), known):
        evaluate(new)
        known |= set(new)


def sampler_search(name: str, costs: Costs, evaluate: Evaluate, budget: int, seed: int, at_once: int = 1) -> None:
    """Optuna's sampler, from random archs on, for the most accuracy and MES within the limits.

    Its study is in memory: thousands of trials are told there that need no evaluation. Repeats are told the accuracy
    that is known. Archs outside the limits are told by how much (as constraints: logarithms, at most 0 within), and the
    accuracy of the nearest that is known, which the Gaussian process alone looks at. MES is told by its logarithm, as
    its distances count: in NSGA-II's crowding, in hypervolumes and for the Gaussian process.

    Args:
        at_once: archs that TPE and the Gaussian process are asked for before they are told of any; they then keep away
            from those that they have already named (Optuna's constant liar and its like).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, rng = costs.space, random.Random(seed)
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=_sampler(name, seed, at_once))
    distributions = {c.name: _distribution(name, len(c.options)) for c in space.choices}
    known: dict[Arch, float] = {}
    batch = at_once if name in SEQUENTIAL else BATCH[name]

    def enqueue(count: int) -> bool:
        archs = draw(costs, rng, count, known)
        for row in space.encode(archs).tolist():
            study.enqueue_trial(dict(zip(distributions, row, strict=True)))
        return bool(archs)

    if not enqueue(STARTUP[name]):
        return
    barren = 0
    while True:
        trials = [study.ask(distributions) for _ in range(batch)]
        archs = [_arch(space, [trial.params[choice] for choice in distributions]) for trial in trials]
        positions = space.encode(archs)
        within = costs.within(positions)
        new = [a for a in dict.fromkeys(a for a, ok in zip(archs, within, strict=True) if ok) if a not in known]
        if new := new[: budget - len(known)]:
            known |= zip(new, evaluate(new), strict=True)
        if len(known) == budget:
            return
        barren = 0 if new else barren + 1
        if barren == PATIENCE:
            barren = 0
            if not enqueue(batch):
                return
        _tell(study, trials, positions, costs, known)


def draw(costs: Costs, rng: random.Random, count: int, known: Collection[Arch]) -> list[Arch]:
    """Random archs within the limits, each once and none that is known; fewer where many tries find no more.

    Where limits are so tight that samples do not meet them, samples are slimmed by random actions until they do; where
    this finds none either, it is the one that `check_limits` has found.
    """
    space, found, tries = costs.space, dict[Arch, None](), 0
    while len(found) < count and tries < TRIES:
        arch: Arch | None = space.sample(rng)
        while arch and not costs.within(space.encode([arch]))[0]:
            actions = space.slim(arch) if tries >= SAMPLES else ()
            arch = rng.choice(actions).arch if actions else None
        tries += 1
        if arch and arch not in known and arch not in found:
            found[arch], tries = None, 0
    if count > 0 and not known and not found and (last := find_within(costs)):
        return [last]
    return list(found)


def _distribution(name: str, count: int) -> Any:
    """Of positions among a choice's options: their order helps the Gaussian process, and TPE does better without."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    return IntDistribution(0, count - 1) if name == "gp" else CategoricalDistribution(tuple(range(count)))


def _sampler(name: str, seed: int, at_once: int) -> Any:
    from optuna import samplers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what Optuna calls experimental
        if name == "nsga2":
            return samplers.NSGAIISampler(population_size=BATCH[name], seed=seed)
        if name == "tpe":
            return samplers.TPESampler(
                n_startup_trials=STARTUP[name], multivariate=True, constant_liar=at_once > 1, seed=seed
            )
        return samplers.GPSampler(n_startup_trials=STARTUP[name], seed=seed)


def _arch(space: SearchSpace, positions: Sequence[int]) -> Arch:
    """Where positions build no network (a stage without blocks), those below the smallest network's are raised."""
    if arch := space.decode(positions):
        return arch
    raised = space.decode(np.maximum(positions, space.encode([space.smallest])[0]).tolist())
    assert raised is not None, positions
    return raised


def _tell(study: Any, trials: Sequence[Any], positions: np.ndarray, costs: Costs, known: dict[Arch, float]) -> None:
    evaluated, accuracies = costs.space.encode(list(known)), list(known.values())
    excess, scores = costs.excess(positions), np.log(costs.encoded(positions)["mes"])
    for trial, row, over, score in zip(trials, positions, excess, scores, strict=True):
        for metric, value in zip(costs.objective.limits, over, strict=True):
            trial.set_constraint(metric, float(value))
        nearest = int(np.abs(evaluated - row).sum(axis=1).argmin())  # itself, if it is within the limits
        study.tell(trial, [accuracies[nearest], float(score)])
