"""What a run folder holds, read for the report: every stage that has finished, and nothing for the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latency_lut.table import LatencyTable
from nas.objective import latency_metrics
from nas.runs import RunInfo, load_run_info
from nas.search_result import read_result
from search_spaces import SearchSpace, UserError
from search_spaces.files import read_json, read_json_lines

Json = dict[str, Any]


@dataclass(frozen=True)
class Artifacts:
    """One run's `result.json` files and metrics; an empty mapping or None where a stage has not finished.

    Searches are by folder name, retrained and exported networks by winner's name, tables by the path a search gives;
    one that is gone or has been replaced by another's is the error it gives.
    """

    folder: Path
    info: RunInfo
    supernet: Json | None
    supernet_metrics: list[Json]
    searches: dict[str, Json]
    retrained: dict[str, Json]
    retrain_metrics: dict[str, list[Json]]
    exported: dict[str, Json]
    tables: dict[str, LatencyTable | UserError]
    validations: dict[str, Json]

    @cached_property
    def space(self) -> SearchSpace:
        return self.info.search_space()

    @cached_property
    def winners(self) -> dict[str, Json]:
        """The winners of all searches, by name."""
        return {w["name"]: w for search in self.searches.values() for w in search["winners"]}

    @cached_property
    def latencies(self) -> list[str]:
        """The latency metrics of the winners."""
        return latency_metrics(dict.fromkeys(metric for winner in self.winners.values() for metric in winner))

    @cached_property
    def networks(self) -> dict[str, Json]:
        """What the search says of every winner, by name, and of what was trained besides: winners once more under a
        suffix, and such as were winners before limits were changed."""
        earlier = [w for search in self.searches.values() for w in search["earlier_winners"]]
        again = {
            name: next((w for w in [*self.winners.values(), *earlier] if w["arch"] == result["arch"]), None)
            for name, result in self.retrained.items()
        }
        return {**self.winners, **{name: w for name, w in again.items() if w and name not in self.winners}}


def points_of(search: Json) -> list[Json]:
    """The networks that a search shows, slimming its trajectory, others all: with their number, the `step`, and whether
    they are of the `pareto` set."""
    if "trajectory" in search:
        return list(search["trajectory"])
    front = set(search["front"])
    return [{**point, "step": point["index"], "pareto": point["index"] in front} for point in search["evaluations"]]


def read_artifacts(folder: Path) -> Artifacts:
    """Raises UserError if a file of the run cannot be read."""
    info = load_run_info(folder)
    searches = {path.parent.name: read_result(path.parent) for path in sorted(folder.glob("search*/result.json"))}
    tables = [Path(table["path"]) for search in searches.values() for table in search["tables"].values()]
    return Artifacts(
        folder,
        info,
        _maybe(folder / "supernet/result.json"),
        read_json_lines(folder / "supernet/metrics.jsonl"),
        searches,
        _results(folder / "retrain"),
        {path.parent.name: read_json_lines(path) for path in sorted(folder.glob("retrain/[!.]*/metrics.jsonl"))},
        _results(folder / "export"),
        {str(path): _table(path, info.search_space()) for path in tables},
        {str(path): read_json(v) for path in tables if (v := path.with_suffix(".validation.json")).exists()},
    )


def _table(path: Path, space: SearchSpace) -> LatencyTable | UserError:
    try:
        table = LatencyTable.load(path)
        table.check(space)
    except UserError as error:
        return error
    return table


def _results(folder: Path) -> dict[str, Json]:
    return {path.parent.name: read_json(path) for path in sorted(folder.glob("[!.]*/result.json"))}


def _maybe(path: Path) -> Json | None:
    return read_json(path) if path.exists() else None
