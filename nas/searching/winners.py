"""Which of the networks found are retrained, and which of these is recommended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import floor
from typing import Any, TypedDict

import numpy as np

from nas.evaluation.intervals import paired_bootstrap, paired_error
from nas.objective.costs import rounded_up
from nas.objective.mes import Objective, pareto
from nas.objective.metrics import shown
from nas.objective.precisions import precision_of
from search_spaces import UserError

Json = dict[str, Any]
# (networks, images) which search images each classifies correctly, or (networks, parts) what each part of the images
# says of its AP or mIoU: `nas.evaluation.judge.Judge.scores`.
Answers = Callable[[Sequence[Json]], np.ndarray]

APART = 0.05  # of MES: networks nearer than that cost the same


class Recommendation(TypedDict):
    """A winner by its name, and why to take it: a sentence."""

    name: str
    sentence: str


def pick_winners(
    points: Sequence[Json],
    objective: Objective,
    min_accuracy: float | None,
    count: int,
    answers: Answers,
    chance: float = 0.0,
    beside: Json | None = None,
) -> list[Json]:
    """Networks of the Pareto front that differ beyond noise, the most accurate first; fewer than `count` if there are.

    Of networks that cost the same (`APART`) the most accurate stays; from the cheapest on, one stays if it is more
    accurate than the last that stayed by more than a standard error of their difference on the same images (Breiman et
    al. 1984, Section 3.4.3). Under limits the most accurate network within them stays in place of what cannot be told
    from it. Of these are taken the most accurate, and those that dominate most of MES (its logarithm) beyond it.

    Args:
        chance: accuracy of guessing; what is dominated counts from there.
        beside: arch of a network that is trained already and stands beside the winners, if there are others.

    Raises:
        UserError: none is within the limits; the message names each limit's nearest feasible value.
    """
    enough = _enough(points, objective, min_accuracy)
    front = _front([p for p in enough if p["arch"] != beside] or enough)
    candidates = _told_apart(front, answers(front))
    if objective.limits:
        candidates[0] = front[0]
    return _dominating(candidates, count, chance)


def _enough(points: Sequence[Json], objective: Objective, min_accuracy: float | None) -> list[Json]:
    """Those within the limits; UserError if there is none."""
    allowed = [p for p in points if objective.feasible(p)]
    if not allowed:
        raise UserError(_infeasible(objective, points))
    enough = [p for p in allowed if p["accuracy"] >= (min_accuracy or 0)]
    if not enough:
        best = floor(1e4 * max(p["accuracy"] for p in allowed)) / 1e4  # so that it is reached
        raise UserError(f"no network found reaches accuracy {min_accuracy}; the best within the limits has {best:.4f}")
    return enough


def _front(points: Sequence[Json]) -> list[Json]:
    """The Pareto front by descending accuracy, of networks that cost the same the most accurate."""
    on_front = pareto(np.array([[p["accuracy"], p["mes"]] for p in points]))
    kept: list[Json] = []
    for point in sorted((p for p, on in zip(points, on_front, strict=True) if on), key=lambda p: p["mes"]):
        if not kept or point["mes"] >= (1 + APART) * kept[-1]["mes"]:
            kept.append(point)
    return kept


def _told_apart(front: Sequence[Json], answers: np.ndarray) -> list[Json]:
    """By descending accuracy, each the cheapest that is more accurate than the next beyond a standard error."""
    kept = [len(front) - 1]
    for i in reversed(range(len(front) - 1)):
        cheaper = kept[-1]
        error = paired_error(answers[i], answers[cheaper])
        if front[i]["accuracy"] - front[cheaper]["accuracy"] > error * (1 + 1e-9):  # not by rounding
            kept.append(i)
    return [front[i] for i in reversed(kept)]


def _dominating(front: Sequence[Json], count: int, chance: float) -> list[Json]:
    """The first of the front and the `count - 1` others that dominate most beyond it, in their order.

    Exact: each step adds a network to the best sets that end with each network (Bringmann et al., Two-dimensional
    Subset Selection for Hypervolume and Epsilon-Indicator, 2014).
    """
    scores = np.log([p["mes"] for p in front])
    heights = np.array([max(p["accuracy"] - chance, 0.0) for p in front])
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}
    for _ in range(min(count, len(front)) - 1):
        best = {
            end: max(
                (area + heights[end] * (scores[end] - scores[last]), [*chosen, end])
                for last, (area, chosen) in best.items()
                if last < end
            )
            for end in range(1, len(front))
            if any(last < end for last in best)
        }
    _, chosen = max(best.values())
    return [front[i] for i in chosen]


def recommend(
    winners: Sequence[Json], points: Sequence[Json], objective: Objective, answers: Answers, num_images: int
) -> Recommendation:
    """Under limits the most accurate winner; else the cheapest that is not told (95 %, on the same images) to be less
    accurate than the most accurate network found, or the most accurate winner if all are.

    Args:
        winners: named, the most accurate first.
        points: all that was found.
        num_images: that figures are of.
    """
    best = max((p for p in points if objective.feasible(p)), key=lambda p: (p["accuracy"], p["mes"]))
    best_right, *right = answers([best, *winners])
    if objective.limits or len(winners) == 1:
        chosen = 0
    else:
        as_accurate = [i for i, row in enumerate(right) if paired_bootstrap(best_right, row)[0] <= 0]
        chosen = max(as_accurate, default=0)
    winner = winners[chosen]
    name = winner["name"]
    called = f"{name} in {precision}" if (precision := precision_of(winner)) != "float32" else name
    if is_same(winner, best):
        within = " within the limits" if objective.limits else ""
        return {"name": name, "sentence": f"Take {called}: it is the most accurate network found{within}."}
    metric = objective.terms[0].metric
    cost = f"it has {winner[metric] / best[metric]:.2f} of the {shown(metric).name} of the most accurate network found"
    return {"name": name, "sentence": f"Take {called}: {cost}, and {_beside(right[chosen], best_right, num_images)}."}


def _beside(right: np.ndarray, best: np.ndarray, num_images: int) -> str:
    """How accurate a network is beside the best, on the same images."""
    low, high = paired_bootstrap(best, right)
    points = f"{100 * (best.mean() - right.mean()):.1f} points (95 %: {100 * low:.1f} to {100 * high:.1f}"
    told = "loses" if low > 0 else "is not told to be less accurate: it loses"
    return f"{told} {points}, on the same {num_images:,} search images)"


def name_winners(chosen: Sequence[Json], earlier: Sequence[Json], prefix: str) -> list[Json]:
    """Winners under the names that they have had in this search; new ones have the numbers after these.

    One arch in two precisions is two networks.
    """
    names = {_network(winner): winner["name"] for winner in earlier}
    named = []
    for point in chosen:
        name = names.setdefault(_network(point), f"{prefix}-{len(names) + 1}")
        named.append({"name": name, **point})
    return named


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both are one arch in one precision."""
    return _network(one) == _network(other)


def _network(point: Mapping[str, Any]) -> str:
    return json.dumps([point["arch"], precision_of(point)])


def _infeasible(objective: Objective, points: Sequence[Json]) -> str:
    """The space has networks within the limits, or the search would not have begun."""
    least = {name: min(p[name] for p in points) for name in objective.limits}
    broken = {name: limit for name, limit in objective.limits.items() if least[name] > limit}
    remedy = "search on with more --budget, without --only or with another --strategy, or relax the limit"
    if not broken:
        return f"no network found is within all limits at once ({', '.join(objective.limits)}); {remedy}"
    found = (f"{n} of at most {limit:g}, the smallest has {rounded_up(least[n])}" for n, limit in broken.items())
    return f"no network found has {' and '.join(found)}; {remedy}"
