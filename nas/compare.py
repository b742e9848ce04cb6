"""Compare searches of one supernet: who finds the better networks, with how many evaluations, in what time.

Searches that differ in their seeds alone are one group, shown by its mean and spread. Bare: all finished searches of
the newest run. For some, or those of several runs that have the same supernet:
    python -m nas.compare runs/a/search-nsga2 runs/a/search-predictor --max-latency-ms 1 2

The hypervolume is the area of accuracy and log MES that what was evaluated dominates, from the accuracy of guessing and
the MES of the largest network on. Evaluations count the archs that a race dropped, as --budget does. Writes
comparison.json and the page comparison.html.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from nas import runs
from nas.comparison.data import (
    TABLE,
    Json,
    Reference,
    Search,
    check_comparable,
    find_searches,
    reference_of,
    under_one_mes,
)
from nas.comparison.page import compare_page
from nas.objective.hypervolume import Progress
from nas.objective.mes import latency_metrics, pareto, shown
from search_spaces import UserError
from search_spaces.command import align, flag, parse, run
from search_spaces.command.files import read_json, slug, write_json, write_text

OUT = runs.RUNS / "compare"


@dataclass(frozen=True)
class Config:
    searches: tuple[str, ...] = flag(
        (), "folders runs/<run>/search-<name>, or runs (all of a run's finished searches)", positional=True
    )
    max_latency_ms: tuple[float, ...] = flag((), "show the best accuracy within these (default: quartiles)", above=0)
    max_params: tuple[float, ...] = flag((), "show the best accuracy within these (default: quartiles)", above=0)
    points: str | None = flag(
        None, "JSON list of other networks to show by the fronts: label, accuracy, mes; latency_ms, num_params if known"
    )
    out: str | None = flag(None, f"folder to write to (default: {OUT}/<run>-<strategies>)")


@dataclass(frozen=True)
class Group:
    """Searches of one strategy and the same settings, with different seeds."""

    label: str
    searches: tuple[Search, ...]
    reference: Reference

    @cached_property
    def over_evaluations(self) -> tuple[Progress, ...]:
        return tuple(Progress.of(s.values, s.evaluations, self.reference.point) for s in self.searches)

    @cached_property
    def over_minutes(self) -> tuple[Progress, ...]:
        """None at all if one of the searches has not recorded them."""
        if any(s.minutes_at is None for s in self.searches):
            return ()
        point = self.reference.point
        return tuple(Progress.of(s.values, s.minutes_at, point) for s in self.searches if s.minutes_at is not None)

    @cached_property
    def hypervolume(self) -> float:
        """Final, the mean of the searches."""
        return fmean(p.final for p in self.over_evaluations)

    @cached_property
    def fronts(self) -> tuple[tuple[Json, ...], ...]:
        """Of each search, by ascending MES."""
        fronts = []
        for search in self.searches:
            held = [p for p, on in zip(search.points, pareto(search.values), strict=True) if on]
            fronts.append(tuple(sorted(held, key=lambda p: p["mes"])))
        return tuple(fronts)


@dataclass(frozen=True)
class Table:
    """Texts, as the terminal and the page show them."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def compare(config: Config) -> Path:
    """Writes the comparison and returns its folder.

    Raises:
        UserError: the searches cannot be read or compared; the message says which two and why.
    """
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


# ---- groups


def make_groups(searches: Iterable[Search], reference: Reference) -> list[Group]:
    """In the order of their first searches; one that repeats a seed of its group begins another."""
    groups: dict[tuple[str, str, int], list[Search]] = {}
    for search in searches:
        settings = json.dumps(search.settings, sort_keys=True)
        repeats = sum(
            other.seed == search.seed
            for (strategy, same, _), members in groups.items()
            for other in members
            if (strategy, same) == (search.strategy, settings)
        )
        groups.setdefault((search.strategy, settings, repeats), []).append(search)
    members = list(groups.values())
    labels = _labels([group[0] for group in members])
    return [Group(label, tuple(group), reference) for label, group in zip(labels, members, strict=True)]


def _labels(firsts: Sequence[Search]) -> list[str]:
    """The strategy; with the settings that differ, or else the folder, where groups share one."""
    labels = []
    for search in firsts:
        same = [other for other in firsts if other.strategy == search.strategy]
        names = dict.fromkeys(name for other in same for name in other.settings)
        words = [
            f"{name} {value}"
            for name in names
            if (value := search.settings.get(name)) is not None
            and any(o.settings.get(name, value if name.startswith(TABLE) else None) != value for o in same)
        ]
        labels.append(" ".join([search.strategy, *words]))
    return [
        f"{label} ({search.folder})" if labels.count(label) > 1 else label
        for label, search in zip(labels, firsts, strict=True)
    ]


# ---- what is compared


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
    points = read_json(Path(name))
    if not isinstance(points, list):
        raise UserError(f"{name} is no JSON list; give one of objects with label, accuracy and mes")
    for i, point in enumerate(points):
        if not _is_point(point):
            shown = json.dumps(point)[:80]
            raise UserError(f"{name}: entry {i} is {shown}; give a label, an accuracy from 0 to 1 and a mes above 0")
    return points


def _is_point(point: Any) -> bool:
    if not isinstance(point, dict) or "label" not in point:
        return False
    accuracy, mes, *others = (point.get(name) for name in ("accuracy", "mes", "latency_ms", "num_params"))
    if not (isinstance(accuracy, int | float) and isinstance(mes, int | float)):
        return False
    return 0 <= accuracy <= 1 and 0 < mes < math.inf and all(isinstance(o, int | float | None) for o in others)


# ---- as text


def make_tables(result: Json) -> list[Table]:
    groups = result["groups"]
    seeds = {label: len(group["searches"]) for label, group in groups.items()}
    summary = [
        (
            label,
            str(seeds[label]),
            _cell(group["num_evaluations"], "{:,.0f}"),
            _cell(group["minutes"], "{:.1f}"),
            _cell(group["hypervolume"], "{:.4f}"),
            _range(group["hypervolume"]),
        )
        for label, group in groups.items()
    ]
    reference = result["reference"]
    several = "; ± is the standard deviation over seeds" if max(seeds.values()) > 1 else ""
    tables = [
        Table(
            "Hypervolume",
            ("search", "seeds", "evaluations", "minutes", "hypervolume", "least – most"),
            tuple(summary),
            f"accuracy × ln MES above {reference['accuracy']:.3g} (guessing) and MES {reference['mes']:.4g} "
            f"(the largest network){several}",
        )
    ]
    if best := next(iter(groups.values()))["best_accuracy"]:
        heads = [f"{shown(b['metric']).name} ≤ {shown(b['metric']).text(b['limit'])}" for b in best]
        rows = [(name, *(_cell(b, "{:.2f}", 100) for b in group["best_accuracy"])) for name, group in groups.items()]
        note = "of what was evaluated, on the search split; in brackets, how many seeds found any"
        tables.append(Table("Best accuracy within a limit, %", ("search", *heads), tuple(rows), note))
    for unit, text in (("evaluations", "{:,.0f}"), ("minutes", "{:.2f}")):
        to_reach = result[f"{unit}_to_reach"]
        rows = [(label, *(_reach_cell(cell, text) for cell in others.values())) for label, others in to_reach.items()]
        note = (
            "median of the seeds, in brackets how many reach it if not all; > x: half of them or more do not, and the "
            "first of these ended at x; – is not recorded"
        )
        title = f"{unit.capitalize()} to the mean final hypervolume of each"
        tables.append(Table(title, ("search", *(f"of {label}" for label in groups)), tuple(rows), note))
    return tables


def _cell(values: Json, text: str, factor: float = 1.0) -> str:
    """Mean ± standard deviation, and of how many if not of all."""
    if values["mean"] is None:
        return "–"
    held, all_of = sum(v is not None for v in values["values"]), len(values["values"])
    cell = text.format(factor * values["mean"])
    if values["std"]:
        cell += f" ± {text.format(factor * values['std'])}"
    return cell if held == all_of else f"{cell} ({held} of {all_of})"


def _reach_cell(found: Json, text: str) -> str:
    """Median, and how many reach it if not all."""
    if not found["values"]:
        return "–"
    cell = text.format(found["median"]) if found["median"] is not None else f"> {text.format(found['more_than'])}"
    reached, all_of = found["reached"], len(found["values"])
    return cell if reached == all_of else f"{cell} ({reached} of {all_of})"


def _range(values: Json) -> str:
    return f"{values['min']:.4f} – {values['max']:.4f}" if values["std"] is not None else "–"


def main(argv: Sequence[str] | None = None) -> None:
    compare(parse(Config, argv, "python -m nas.compare", __doc__ or ""))


if __name__ == "__main__":
    run(main)
