"""What a run folder holds, read for the report: every stage that has finished, and nothing for the others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latency_lut.tables.table import LatencyTable
from latency_lut.tables.validation import Validation, validation_of
from nas.evaluation.intervals import as_text, interval
from nas.objective import tables
from nas.objective.figure import classifies, figure_name
from nas.objective.mes import Objective
from nas.objective.metrics import latency_metrics
from nas.objective.precisions import precision_of
from nas.runs import RunInfo, follow, load_run_info
from nas.runs.baselines import Baselines, read_baselines
from nas.runs.metrics import Metrics, read_metrics
from nas.runs.results import (
    REMEDY,
    Evaluation,
    ExportedResult,
    PrunedResult,
    SupernetResult,
    TrainedResult,
    onnx_latency,
)
from nas.searching.result import digests, objective_of, read_result, tables_of
from nas.searching.winners import is_same
from search_spaces import SearchSpace, UserError
from search_spaces.command.typed import load_typed

Json = dict[str, Any]


@dataclass(frozen=True)
class UsedTable:
    """A latency table, or the error it gives if it is gone or no longer what was searched with.

    Args:
        uses: by which searches, each with the metric that it has there.
        validation: of this very table; None if there is none.
    """

    path: str
    uses: tuple[tuple[str, str], ...]
    table: LatencyTable | UserError
    validation: Validation | None


@dataclass(frozen=True)
class Group:
    """Searches with the same MES by the same tables and on equally many images: their figures can stand in one column.

    Args:
        networks: what the searches say of every winner, by name, and of what was trained besides: winners once more
            under a suffix, and such as were winners before limits were changed.
    """

    searches: dict[str, Json]
    networks: dict[str, Json]

    @cached_property
    def winners(self) -> dict[str, Json]:
        return winners_of(self.searches.values())

    @cached_property
    def objective(self) -> Objective:
        return objective_of(next(iter(self.searches.values())))

    @cached_property
    def latencies(self) -> list[str]:
        """The latency metrics of the networks."""
        return latency_metrics(dict.fromkeys(metric for network in self.networks.values() for metric in network))


def winners_of(searches: Iterable[Json]) -> dict[str, Json]:
    """By name."""
    return {winner["name"]: winner for search in searches for winner in search["winners"]}


@dataclass(frozen=True)
class Artifacts:
    """One run's `result.json` files and metrics; an empty mapping or None where a stage has not finished.

    Searches and prunings are by folder name, retrained and exported networks by winner's name, evaluations that have a
    page by its name.
    """

    folder: Path
    info: RunInfo
    supernet: Json | None
    supernet_metrics: list[Metrics]
    searches: dict[str, Json]
    retrained: dict[str, Json]
    retrain_metrics: dict[str, list[Metrics]]
    exported: dict[str, Json]
    pruned: dict[str, Json]
    evaluated: dict[str, Json]
    tables: tuple[UsedTable, ...]
    baselines: Baselines | None

    @cached_property
    def space(self) -> SearchSpace:
        return self.info.search_space()

    @cached_property
    def baselines_warnings(self) -> list[str]:
        """Why the verdict on the winners deserves less trust, a line each."""
        if self.baselines is None:
            return []
        changed = self.baselines.outdated(self.folder)
        again = f"WARNING: {', '.join(changed)}: trained again since this comparison; run nas.baselines again"
        return [*([again] if changed else []), *self.baselines.warnings]

    @property
    def figure(self) -> str:
        """What networks are compared by: accuracy, AP, mIoU."""
        return figure_name(self.info.space)

    def said(self, value: float, count: int, ends: Sequence[float] = ()) -> str:
        """That figure of so many images, with its 95 % interval if that is known: `ends`, or of an accuracy."""
        if ends or classifies(self.info.space):
            return as_text(value, ends or interval(value, count))
        return f"{100 * value:.1f} %"

    @cached_property
    def winners(self) -> dict[str, Json]:
        """The winners of all searches, by name."""
        return winners_of(self.searches.values())

    @cached_property
    def recommending(self) -> str | None:
        """The newest search that recommends a network: what met no limit recommends none."""
        found = [name for name, search in self.searches.items() if "recommended" in search]
        written = {name: (self.folder / name / "result.json").stat().st_mtime_ns for name in found}
        return max(found, key=written.__getitem__, default=None)

    @cached_property
    def groups(self) -> list[Group]:
        """All searches, those together whose figures can be compared."""
        found: dict[str, dict[str, Json]] = {}
        for name, search in self.searches.items():
            comparable = [search["objective"]["terms"], digests(tables_of(search)), search.get("num_images")]
            found.setdefault(json.dumps(comparable, sort_keys=True), {})[name] = search
        return [Group(searches, self._networks(searches)) for searches in found.values()]

    def _networks(self, searches: Mapping[str, Json]) -> dict[str, Json]:
        winners = winners_of(searches.values())
        known = [*winners.values(), *(w for search in searches.values() for w in search["earlier_winners"])]
        again = {
            name: next((w for w in known if is_same(w, result)), None)
            for name, result in self.retrained.items()
            if name not in self.winners
        }
        return {**winners, **{name: network for name, network in again.items() if network}}

    def title(self, group: Group) -> str:
        """Its searches, and on how many images their accuracies are if not on the whole search split."""
        names, whole, count = ", ".join(group.searches), self.info.splits.search, self.num_searched(group)
        return names if count == whole else f"{names} (accuracy on {count:,} of {whole:,} search images)"

    def num_searched(self, group: Group) -> int:
        """Images that the accuracies of its searches are of."""
        return int(next(iter(group.searches.values()))["num_images"])

    def recommendations(self, group: Group) -> list[str]:
        """Of its searches, a sentence each; none where baselines have a verdict on the winners."""
        judged = self.baselines.search if self.baselines else None
        found = (s for name, s in group.searches.items() if name != judged)
        return [search["recommended"]["sentence"] for search in found if "recommended" in search]

    def warnings(self, group: Group) -> list[str]:
        """Why the group's latencies deserve less trust, a line each."""
        told = {
            line: None
            for used in self.tables
            for search, metric in used.uses
            if search in group.searches and not isinstance(used.table, UserError)
            for line in tables.warnings({metric: used.table})
        }
        timed = {n: onnx_latency(self.exported.get(n, {}), precision_of(of)) for n, of in group.networks.items()}
        busy = [name for name, latency in timed.items() if latency.get("busy")]
        measured = f"WARNING: the machine was busy when {', '.join(busy)} was measured; export again when it is quiet"
        return [*told, *([measured] if busy else [])]


def read_artifacts(folder: Path) -> Artifacts:
    """Raises UserError if a file of the run cannot be read."""
    info = load_run_info(folder)
    evaluated = sorted(folder.glob("evaluate/*.json"))
    searches = {path.parent.name: read_result(path.parent) for path in sorted(folder.glob("search*/result.json"))}
    return Artifacts(
        folder,
        info,
        _maybe(SupernetResult, folder / "supernet/result.json"),
        read_metrics(folder / "supernet/metrics.jsonl"),
        searches,
        _results(TrainedResult, folder / "retrain"),
        {path.parent.name: read_metrics(path) for path in sorted(folder.glob("retrain/[!.]*/metrics.jsonl"))},
        _results(ExportedResult, folder / "export"),
        _results(PrunedResult, folder / "prune"),
        {p.stem: found for p in evaluated if p.with_suffix(".html").exists() and (found := _maybe(Evaluation, p))},
        tuple(_tables(searches, info.search_space(), folder)),
        read_baselines(folder),
    )


def _tables(searches: Mapping[str, Json], space: SearchSpace, folder: Path) -> Iterator[UsedTable]:
    uses: dict[str, list[tuple[str, str]]] = {}
    files: dict[str, tuple[str, str | None]] = {}
    for search, result in searches.items():
        for recorded in tables_of(result).values():
            for metric, table in recorded.items():
                path, digest = follow(table["path"], folder), table["sha256"]
                uses.setdefault(digest or path, []).append((search, metric))
                if not Path(files.setdefault(digest or path, (path, digest))[0]).exists():
                    files[digest or path] = path, digest
    for name, by in uses.items():
        path, digest = files[name]
        found = _table(path, digest, space)
        validation = None if isinstance(found, UserError) else validation_of(found, Path(path), space)
        yield UsedTable(path, tuple(by), found, validation)


def _table(path: str, digest: str | None, space: SearchSpace) -> LatencyTable | UserError:
    try:
        tables.recorded({"": {"path": path, "sha256": digest}})
        table = LatencyTable.load(Path(path))
        table.check(space)
    except UserError as error:
        return error
    return table


def _results(kind: Any, folder: Path) -> dict[str, Json]:
    return {path.parent.name: load_typed(kind, path, REMEDY) for path in sorted(folder.glob("[!.]*/result.json"))}


def _maybe(kind: Any, path: Path) -> Json | None:
    return load_typed(kind, path, REMEDY) if path.exists() else None
