from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

from nas.searching.slimming import Step, slim
from search_spaces import Action, Arch, SearchSpace, num_params
from tests.nas.tiny import tiny_space

SPACE = tiny_space()


def additive_accuracy(arch: Arch) -> float:
    """Every choice adds its own share, whatever the others are: the loss of an action does not depend on the order."""
    rng = random.Random(0)
    return sum(rng.random() * c.options.index(v) for c, v in zip(SPACE.choices, arch.values, strict=True)) / 100


def mes_of_params(archs: Sequence[Arch]) -> list[float]:
    return [100 * math.sqrt(3e6 / num_params(SPACE, arch)) for arch in archs]


def trajectory(mes=mes_of_params, accuracy=additive_accuracy) -> list[Step]:
    return list(slim(SPACE, mes, lambda base, archs, gains: [accuracy(arch) for arch in archs]))


def test_every_step_takes_the_least_loss_of_accuracy_per_gain_of_mes() -> None:
    steps = trajectory()
    assert steps[0].arch == SPACE.largest and steps[0].action is None
    for before, after in itertools.pairwise(steps):
        actions = {a.arch: a for a in SPACE.slim(before.arch)}
        assert actions[after.arch] == after.action
        taken = (before.accuracy - after.accuracy) / (after.mes - before.mes)
        for arch in actions:
            (score,) = mes_of_params([arch])
            if score > before.mes:
                assert taken <= (before.accuracy - additive_accuracy(arch)) / (score - before.mes)


def test_it_ends_with_the_smallest_network() -> None:
    last = trajectory()[-1].arch
    assert not SPACE.slim(last)
    assert num_params(SPACE, last) == num_params(SPACE, SPACE.smallest)


def test_only_the_choices_named_shrink() -> None:
    def accuracies(base: Arch, archs: Sequence[Arch], gains: Sequence[float]) -> list[float]:
        return [additive_accuracy(arch) for arch in archs]

    actions = [step.action for step in slim(SPACE, mes_of_params, accuracies, ("width", "present")) if step.action]
    assert {action.field for action in actions} == {"width", "present"}
    assert {step.action.field for step in trajectory() if step.action} > {"width", "present"}


def test_it_is_the_optimum_of_an_exhaustive_search_where_actions_are_independent() -> None:
    """Without dropped blocks, which take other choices with them, and with equal gains the greedy order is optimal."""
    weights = [random.Random(i).random() for i in range(len(SPACE.choices))]

    def steps_left(arch: Arch) -> list[int]:
        return [c.options.index(v) for c, v in zip(SPACE.choices, arch.values, strict=True)]

    def accuracy(arch: Arch) -> float:
        return math.fsum(w * n for w, n in zip(weights, steps_left(arch), strict=True))

    best: dict[int, float] = {}
    options = [c.options if c.field != "present" else (1,) for c in SPACE.choices]
    for values in itertools.product(*options):
        arch = Arch(SPACE.name, values)
        best[sum(steps_left(arch))] = max(best.get(sum(steps_left(arch)), 0.0), accuracy(arch))

    def slim_all_but_blocks(arch: Arch) -> tuple[Action, ...]:
        return tuple(action for action in SPACE.slim(arch) if not action.choice.startswith("present"))

    space = cast(SearchSpace, SimpleNamespace(largest=SPACE.largest, slim=slim_all_but_blocks))
    steps = list(
        slim(
            space,
            lambda archs: [100.0 - sum(steps_left(a)) for a in archs],
            lambda base, archs, gains: [accuracy(a) for a in archs],
        )
    )
    assert [s.accuracy for s in steps] == [best[size] for size in sorted(best, reverse=True)]


def test_actions_that_gain_no_mes_are_neither_taken_nor_evaluated() -> None:
    """With a score that only the widths change, only widths are tried."""
    widths = [i for i, c in enumerate(SPACE.choices) if c.field == "width"]
    tried: list[Arch] = []

    def accuracies(base: Arch, archs: Sequence[Arch], gains: Sequence[float]) -> list[float]:
        tried.extend(archs)
        return [0.5] * len(archs)

    steps = list(slim(SPACE, lambda archs: [1000.0 - sum(a.values[i] for i in widths) for a in archs], accuracies))
    assert len(steps) == 1 + sum(len(SPACE.choices[i].options) - 1 for i in widths)
    for arch in tried:
        others = [i for i in range(len(SPACE.choices)) if i not in widths]
        assert all(arch.values[i] == SPACE.largest.values[i] for i in others)


def test_of_equal_losses_the_greatest_gain_is_taken() -> None:
    first = trajectory(accuracy=lambda arch: 0.5)[1]
    assert first.mes == max(mes_of_params([action.arch for action in SPACE.slim(SPACE.largest)]))


def test_it_is_deterministic_and_ends() -> None:
    steps = trajectory()
    assert steps == trajectory()
    assert len(steps) <= 1 + sum(len(c.options) - 1 for c in SPACE.choices)
