"""The published joint search (Li et al. 2023, Section 3.6 and Algorithm 1): slim the largest network step by step.

Every step evaluates the frontier, each choice's next smaller option, and takes the action with the least loss of
accuracy per gain of MES. The trajectory is the curve from which winners are picked. An action that cannot be taken
needs no accuracy: `nas.evaluation.racing` finds it before it has seen all images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from search_spaces import Action, Arch, SearchSpace

Scores = Callable[[Sequence[Arch]], Sequence[float]]
Accuracies = Callable[[Arch, Sequence[Arch], Sequence[float]], Sequence[float | None]]


@dataclass(frozen=True)
class Step:
    """A network of the trajectory and the action that led to it (None for the largest)."""

    action: Action | None
    arch: Arch
    accuracy: float
    mes: float


def slim(space: SearchSpace, mes: Scores, accuracies: Accuracies, only: Collection[str] = ()) -> Iterator[Step]:
    """Yields the trajectory from the largest network on, until no action gains MES.

    Args:
        mes: scores of archs.
        accuracies: of archs that differ from the first argument by one action, with these gains of MES; None of one
            that does not lose least per gain. At first it is asked for the largest network alone, without a gain.
        only: fields of the choices that may shrink; none: all.
    """
    (accuracy,), (score,) = accuracies(space.largest, [space.largest], []), mes([space.largest])
    assert accuracy is not None
    step: Step | None = Step(None, space.largest, accuracy, score)
    while step is not None:
        yield step
        step = next_step(space, step, mes, accuracies, only)


def next_step(
    space: SearchSpace, before: Step, mes: Scores, accuracies: Accuracies, only: Collection[str] = ()
) -> Step | None:
    """The action of least loss per gain, as `slim` takes it; None if no action gains MES."""
    actions = [a for a in space.slim(before.arch) if not only or a.field in only]
    scores = mes([action.arch for action in actions]) if actions else ()
    gaining = [(a, s) for a, s in zip(actions, scores, strict=True) if s > before.mes]
    if not gaining:
        return None
    found = accuracies(before.arch, [action.arch for action, _ in gaining], [s - before.mes for _, s in gaining])
    # Of equal ratios, as when nothing is lost at all, the one that gains most; then the first choice.
    _, _, best, accuracy = min(
        ((before.accuracy - figure) / (score - before.mes), -score, i, figure)
        for i, ((_, score), figure) in enumerate(zip(gaining, found, strict=True))
        if figure is not None
    )
    action, score = gaining[best]
    return Step(action, action.arch, accuracy, score)
