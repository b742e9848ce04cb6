"""Searches of one supernet side by side: figures as JSON and text, and a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, NotRequired, TypedDict

import numpy as np

from nas import runs
from nas.comparison.data import (
    Json,
    Reference,
    check_comparable,
    find_searches,
    reference_of,
    under_one_mes,
)
from nas.comparison.groups import Group, make_groups
from nas.comparison.page import compare_page
from nas.comparison.tables import make_tables
from nas.objective.hypervolume import Progress
from nas.objective.metrics import latency_metrics
from search_spaces import UserError
from search_spaces.command import Flags, align, check_idle, flag
from search_spaces.command.files import read_json, slug, write_json, write_text
from search_spaces.command.typed import Fraction, Positive, read_typed

OUT = runs.RUNS / "compare"


class Point(TypedDict):
    """A network that is shown beside the fronts."""

    label: str
    accuracy: Fraction
    mes: Positive
    latency_ms: NotRequired[Positive | None]
    num_params: NotRequired[Positive | None]
    memory_mb: NotRequired[Positive | None]


@dataclass(frozen=True)
class Config(Flags):
    searches: tuple[str, ...] = flag(
        (), "folders runs/<run>/search-<name>, or runs (all of a run's finished searches)", positional=True
    )
    max_latency_ms: tuple[float, ...] = flag((), "show the best accuracy within these (default: quartiles)", above=0)
    max_params: tuple[float, ...] = flag((), "show the best accuracy within these (default: quartiles)", above=0)
    points: str | None = flag(
        None, "JSON list of other networks to show by the fronts: label, accuracy, mes; latency_ms, num_params if known"
    )
    winners: bool = flag(
        False, "compare the retrained winners of runs on the same images, of whatever families, timed together"
    )
    samples: int = flag(40, "undisturbed samples of each network that is timed, with --winners", minimum=2)
    device: str = flag("auto", "that classifies the test images with --winners: cpu, cuda, …")
    num_workers: int = flag(0, "processes that load these (0: this one)", minimum=0)
    out: str | None = flag(None, f"folder to write to (default: {OUT}/<run>-<strategies>)")


def compare(config: Config) -> Path:
    """Writes the comparison and returns its folder.

    Raises:
        UserError: the searches cannot be read or compared, the message says which two and why; flags of other
            comparisons.
    """
    check_idle(config, ("samples", "device", "num_workers"), "--winners")
    searches = find_searches(config.searches)
    check_comparable(searches)
    searches = under_one_mes(searches)
    points = read_points(config.points) if config.points else []
    reference = reference_of(searches)
    groups = make_groups(searches, reference)
    limits = _limits(config, groups)
    result = comparison(groups, reference, limits)
    tables = make_tables(result)
    strategies = "-".join(dict.fromkeys(s.strategy for s in searches))
    folder = Path(config.out) if config.out else OUT / slug(f"{searches[0].folder.resolve().parent.name}-{strategies}")
    write_json(folder / "comparison.json", {"command": runs.command_line(), **result, "points": points})
    write_text(folder / "comparison.html", compare_page(groups, tables, points))
    for table in tables:
        print(f"{table.title}\n{align([table.head, *table.rows], '<' + '>' * (len(table.head) - 1))}\n{table.note}\n")
    print(f"wrote {folder}/comparison.html and comparison.json")
    return folder


def comparison(groups: Sequence[Group], reference: Reference, limits: Sequence[tuple[str, float]]) -> Json:
    """Everything that is shown, as JSON. Each spread holds the searches' own figures in the groups' order."""
    return {
        "reference": asdict(reference),
        "identity": groups[0].searches[0].identity,
        "groups": {group.label: _group(group, limits) for group in groups},
        "evaluations_to_reach": _reach(groups, lambda group: group.over_evaluations),
        "minutes_to_reach": _reach(groups, lambda group: group.over_minutes),
    }


def _group(group: Group, limits: Sequence[tuple[str, float]]) -> Json:
    return {
        "strategy": group.searches[0].strategy,
        "settings": group.searches[0].settings,
        "hypervolume": spread([p.final for p in group.over_evaluations]),
        "num_evaluations": spread([float(s.evaluations[-1]) for s in group.searches]),
        "minutes": spread([s.minutes for s in group.searches]),
        "best_accuracy": [
            {"metric": metric, "limit": limit, **spread([s.best_accuracy(metric, limit) for s in group.searches])}
            for metric, limit in limits
        ],
        "searches": [
            {
                "folder": str(search.folder),
                "seed": search.seed,
                "hypervolume": {"evaluations": over.spent.tolist(), "values": over.value.tolist()},
                "front": list(front),
            }
            for search, over, front in zip(group.searches, group.over_evaluations, group.fronts, strict=True)
        ],
    }


def _reach(groups: Sequence[Group], progress: Callable[[Group], Sequence[Progress]]) -> Json:
    """What each group spends until it has the mean final hypervolume of each: by its label, then the other's."""
    return {
        group.label: {other.label: reach(progress(group), other.hypervolume) for other in groups} for group in groups
    }


def reach(searches: Sequence[Progress], target: float) -> Json:
    """What searches spend until they have the hypervolume; of one that never has it is known that it takes more.

    So the figure is the median over all, which needs no more than half of them to be known; where it falls on one that
    never reaches the target, it is above what the shortest of these has spent (`more_than`).
    """
    values = [search.reaches(target) for search in searches]
    never = [float(search.spent[-1]) for search, value in zip(searches, values, strict=True) if value is None]
    middle = median([math.inf if value is None else value for value in values]) if values else math.inf
    known = middle < math.inf
    return {
        "median": middle if known else None,
        "more_than": None if known else min(never, default=None),
        "reached": len(values) - len(never),
        "values": values,
    }


def spread(values: Sequence[float | None]) -> Json:
    """Mean, sample standard deviation (None of fewer than two), least and greatest of the values that there are."""
    held = [v for v in values if v is not None]
    return {
        "mean": fmean(held) if held else None,
        "std": stdev(held) if len(held) > 1 else None,
        "min": min(held, default=None),
        "max": max(held, default=None),
        "values": list(values),
    }


def _limits(config: Config, groups: Sequence[Group]) -> list[tuple[str, float]]:
    """(metric, limit) as asked for; else a quarter, half and three quarters of the way along the fronts."""
    on_fronts = [point for group in groups for front in group.fronts for point in front]
    latencies = [metric for metric in latency_metrics(on_fronts[0]) if all(metric in point for point in on_fronts)]
    if config.max_latency_ms and not latencies:
        raise UserError(f"--max-latency-ms {config.max_latency_ms[0]:g} needs latencies; search with a --table")
    known = [*latencies, "num_params"]
    asked = {**dict.fromkeys(latencies, config.max_latency_ms), "num_params": config.max_params}
    if any(asked.values()):
        return [(metric, limit) for metric, limits in asked.items() for limit in limits]
    return [(metric, limit) for metric in known for limit in _quartiles([p[metric] for p in on_fronts])]


def _quartiles(values: Sequence[float]) -> list[float]:
    """Of the range, to three digits."""
    quarters = np.linspace(min(values), max(values), 5)[1:4]
    return list(dict.fromkeys(float(f"{q:.3g}") for q in quarters))


def read_points(name: str) -> list[Json]:
    """Networks to be shown beside the fronts.

    Raises:
        UserError: not a list of objects with a label, an accuracy (a fraction) and a mes above 0.
    """
    try:
        hint: Any = list[Point]
        return list(read_typed(hint, read_json(Path(name)), "entry"))
    except ValueError as error:
        raise UserError(f"{name}: {error}; give a list of objects with label, accuracy and mes") from None
