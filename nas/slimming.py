"""The published joint search (Li et al. 2023, Section 3.6 and Algorithm 1): slim the largest network step by step.

Every step evaluates the frontier, each choice's next smaller option, and takes the action with the least loss of
accuracy per gain of MES. The trajectory is the curve from which winners are picked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from search_spaces import Action, Arch, SearchSpace

Accuracies = Callable[[Arch, Sequence[Arch]], list[float]]


@dataclass(frozen=True)
class Step:
    """A network of the trajectory and the action that led to it (None for the largest)."""

    action: Action | None
    arch: Arch
    accuracy: float
    mes: float


def slim(
    space: SearchSpace,
    mes: Callable[[Sequence[Arch]], Sequence[float]],
    accuracies: Accuracies,
    only: Collection[str] = (),
) -> Iterator[Step]:
    """Yields the trajectory from the largest network on, until no action gains MES.

    Args:
        mes: scores of archs.
        accuracies: of archs that differ from the first argument by one action.
        only: fields of the choices that may shrink; none: all.
    """
    current = space.largest
    accuracy, score = accuracies(current, [current])[0], mes([current])[0]
    yield Step(None, current, accuracy, score)
    while actions := [a for a in space.slim(current) if not only or a.field in only]:
        scores = mes([action.arch for action in actions])
        gaining = [(a, s) for a, s in zip(actions, scores, strict=True) if s > score]
        if not gaining:
            return
        found = accuracies(current, [action.arch for action, _ in gaining])
        # Of equal ratios, as when nothing is lost at all, the one that gains most; then the first choice.
        best = min(
            range(len(gaining)),
            key=lambda i: ((accuracy - found[i]) / (gaining[i][1] - score), -gaining[i][1], i),
        )
        action, score = gaining[best]
        current, accuracy = action.arch, found[best]
        yield Step(action, current, accuracy, score)
