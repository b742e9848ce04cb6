"""Searches that differ in their seeds alone are one group."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from nas.comparison.data import TABLE, Json, Reference, Search
from nas.objective.hypervolume import Progress
from nas.objective.mes import pareto


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
