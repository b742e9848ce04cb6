"""Searches as `nas.compare` reads them: what each evaluated, in order, and whether they can be compared at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from latency_lut.tables.table import LatencyTable
from nas import runs
from nas.objective.costs import Costs
from nas.objective.goals import Goals
from nas.objective.mes import Objective
from nas.objective.metrics import latency_metrics, shown
from nas.objective.precisions import Precision
from nas.searching.result import digests, files_of, in_precisions, objective_of, read_result, tables_of
from nas.searching.search import FREE
from search_spaces import SearchSpace, UserError
from search_spaces.command.files import sha256

Json = dict[str, Any]

# What makes no other strategy of a search: where and how fast, what is picked afterwards, what `identity` holds, and
# goals, which are read from the result.
NO_SETTINGS = {
    *FREE,
    "command",
    "storage",
    "study",
    "strategy",
    "seed",
    "winners",
    *(field.name for field in fields(Goals)),
}
NO_SETTINGS |= {"num_images", "calibration_images", "batch_size", "table_sha256", "tables_sha256", "supernet_sha256"}
NO_SETTINGS |= {"seed_archs_sha256", "seed_archs"}  # in short: `_settings`
TABLE = "table of"  # begins the names of settings that say which latency table
NUMBERS = ("accuracy", "mes", "num_params")  # of every evaluation; latencies if there are tables


class SearchFacts(TypedDict):
    """Of a search's `config.json`, beside its flags."""

    supernet_sha256: NotRequired[str]
    seed_archs_sha256: NotRequired[str]


@dataclass(frozen=True)
class Search:
    """A finished search.

    Args:
        seed: None of slimming, which has no randomness.
        settings: of the strategy and its goals; searches that differ in their seeds alone have the same.
        identity: what searches must share to be compared, by names that a message can show.
        objective: of the search, without limits.
        tables: its latency tables by precision, as `nas.objective.tables.record` makes them.
        points: evaluated archs in order, with `accuracy`, `mes`, `num_params` and, with tables, latencies.
        evaluations: (points,) archs evaluated when each point was known, those dropped from a race included.
        minutes_at: (points,) minutes since the start when each point was known; None if that was not recorded.
    """

    folder: Path
    strategy: str
    seed: int | None
    settings: Json
    identity: Json
    objective: Objective
    tables: dict[Precision, Json]
    points: tuple[Json, ...]
    evaluations: np.ndarray
    minutes_at: np.ndarray | None
    minutes: float

    @property
    def values(self) -> np.ndarray:
        """(points, 2) accuracy and log MES."""
        return np.array([[p["accuracy"], np.log(p["mes"])] for p in self.points])

    def best_accuracy(self, metric: str, limit: float) -> float | None:
        """Of what was evaluated within the limit; None if nothing was."""
        return max((p["accuracy"] for p in self.points if p[metric] <= limit), default=None)


@dataclass(frozen=True)
class Reference:
    """Where hypervolume begins: the accuracy of guessing, and the MES of the space's largest network; in several
    precisions the least that it has.

    Both follow from what compared searches share, so a search's hypervolume does not depend on what it is compared
    with. Searches begin at the largest network; what is slower and larger than that is no gain.
    """

    accuracy: float
    mes: float

    @property
    def point(self) -> np.ndarray:
        return np.array([self.accuracy, np.log(self.mes)])


def find_searches(names: Sequence[str]) -> list[Search]:
    """The searches of these folders, and all finished ones of those that are runs; without names, of the newest run.

    Raises:
        UserError: there are fewer than two, one that is named has not finished, or cannot be read.
    """
    if names:
        folders = [runs.run_folder(name) for name in names]
    else:
        folders = [runs.find_run(None, "search*/result.json", "python -m nas.search")]
    found = list({path.resolve(): path for folder in folders for path in _searches(folder)}.values())
    if len(found) < 2:
        alone = found[0] if found else ", ".join(map(str, folders))
        raise UserError(f"only {alone} is there to compare; search again with another --strategy or --seed")
    return [read_search(path) for path in found]


def _searches(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(
            f"there is no run or search {folder}; give runs, or folders like {runs.RUNS}/<run>/search-<name>"
        )
    if (folder / "run.json").exists():
        begun = sorted(path.parent for path in folder.glob("search*/config.json"))
        for path in begun:
            if not _is_finished(path):
                print(f"{path} has not finished: left out")
        return [path for path in begun if _is_finished(path)]
    if not (folder.parent / "run.json").exists():
        raise UserError(f"{folder} is neither a run nor a search of one; see `ls {runs.RUNS}`")
    if not _is_finished(folder):
        name = folder.name.removeprefix("search").removeprefix("-")
        resume = f"python -m nas.search --resume --run {folder.parent}{f' --name {name}' if name else ''}"
        raise UserError(f"{folder} has not finished; go on with {resume}")
    return [folder]


def _is_finished(folder: Path) -> bool:
    return (folder / "result.json").exists()


def read_search(folder: Path) -> Search:
    """Raises UserError if a file is missing or is not of this version."""
    path, run_folder = folder / "result.json", folder.parent
    result, config = read_result(folder), runs.begun_with(SearchFacts, folder)
    info = runs.load_classes_info(run_folder)
    try:
        points, evaluations = _points(result, info.search_space())
        if not points:
            raise UserError(f"{folder} has evaluated nothing; remove it, or name the searches to compare")
        seconds = [p["seconds_since_start"] for p in points if p.get("seconds_since_start") is not None]
        search = Search(
            folder=folder,
            strategy=result["strategy"],
            seed=None if result["strategy"] == "slimming" else result.get("seed"),
            settings=_settings(result, config),
            identity=_identity(result, config, info, run_folder),
            objective=replace(objective_of(result), limits={}),
            tables=tables_of(result),
            points=tuple(points),
            evaluations=evaluations,
            minutes_at=np.maximum.accumulate(seconds) / 60 if len(seconds) == len(points) else None,
            minutes=result["minutes"],
        )
        _check_numbers(search)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a search's result of this version ({error}); search again") from None
    return search


def _settings(result: Json, config: Mapping[str, Any]) -> Json:
    chosen = {k.replace("_", "-"): v for k, v in config.items() if k not in NO_SETTINGS}
    objective = objective_of(result)
    alphas = {f"α {shown(t.metric).name}": t.alpha for t in objective.terms}
    limits = {f"{shown(m).name} ≤": shown(m).text(limit) for m, limit in objective.limits.items()}
    by_precision = tables_of(result)
    where = {precision: f" in {precision}" if len(by_precision) > 1 else "" for precision in by_precision}
    tables = {
        f"{TABLE} {shown(m).name}{where[precision]}": (t["sha256"] or t["path"])[:6]
        for precision, own in by_precision.items()
        for m, t in own.items()
    }
    goals = {**alphas, **limits, **tables}  # units scale MES alone
    start = {"seed-archs": digest[:6]} if (digest := config.get("seed_archs_sha256")) else {}
    # a default budget is that number; of the workers only what changes what is found
    return {**chosen, **start, "budget": result.get("budget"), "asynchronous": result.get("asynchronous"), **goals}


def _points(result: Json, space: SearchSpace) -> tuple[list[Json], np.ndarray]:
    """What was evaluated, and how many archs had been evaluated by then, those dropped from a race included.

    Older results of slimming do not say when archs were dropped, the oldest not even what was evaluated. Of these the
    trajectory is read; a step of it was known when the frontiers up to it had been evaluated.
    """
    points, num_dropped = result.get("evaluations"), result.get("num_dropped", 0)
    if points is not None and not (num_dropped and any("num_asked" not in p for p in points)):
        return points, np.array([p.get("num_asked", i) for i, p in enumerate(points, 1)], dtype=float)
    points = result["trajectory"]
    frontiers = [len(space.slim(space.from_json(p["arch"]))) for p in points[:-1]]
    return points, np.minimum(np.cumsum([1.0, *frontiers]), result["num_evaluations"] + num_dropped)


def _check_numbers(search: Search) -> None:
    """ValueError unless all evaluations have finite numbers."""
    names = [*NUMBERS, *latency_metrics(search.points[0])]
    numbers = np.array([[p[name] for name in names] for p in search.points], dtype=float)
    if not (np.isfinite(numbers).all() and (numbers[:, 1] > 0).all()):
        raise ValueError("an evaluation is not finite, or its mes not above 0")


# ---- what can be compared


def _identity(result: Json, config: Mapping[str, Any], info: runs.RunInfo, run_folder: Path) -> Json:
    supernet = run_folder / "supernet" / "supernet.safetensors"
    return {
        "space": f"{info.space} at {info.image_size} px, {info.num_classes} classes",
        "supernet's sha256": config.get("supernet_sha256") or _sha256(supernet.resolve()),
        "search split's digest": info.splits.digest,
        "number of search images": result["num_images"],
        "number of calibration images": result.get("calibration_images", 0),
    }


@cache
def _sha256(path: Path) -> str:
    """Supernets in several runs are the same if their files are; one that is gone is like no other run's."""
    return sha256(path) if path.exists() else f"unknown: {path} is missing"


FLAGS = {"number of search images": "--num-images", "number of calibration images": "--calibration-images"}


def check_comparable(searches: Sequence[Search]) -> None:
    """Accuracy must mean the same in all.

    Raises:
        UserError: naming the first two searches that differ, and in what.
    """
    first = searches[0]
    for other in searches[1:]:
        for name in dict.fromkeys([*first.identity, *other.identity]):
            a, b = first.identity.get(name), other.identity.get(name)
            if a != b:
                remedy = (
                    f"search again with {FLAGS[name]} {a}"
                    if name in FLAGS
                    else "give searches of one supernet (of others, --winners)"
                )
                raise UserError(
                    f"cannot compare {first.folder} with {other.folder}: the {name} is {a} in the one and {b} in the "
                    f"other; {remedy}, or name those to compare"
                )


def under_one_mes(searches: Sequence[Search]) -> list[Search]:
    """All by the MES and the latency tables of the first, where others have their own.

    Raises:
        UserError: they differ, and a table of the first is gone or has changed.
    """
    first = searches[0]
    own = [s.objective == first.objective and digests(s.tables) == digests(first.tables) for s in searches]
    if all(own):
        return list(searches)
    print(f"all are scored by the MES and tables of {first.folder}: {first.objective.formula}")
    costs = _costs(first)
    return [search if same else _scored(search, costs) for search, same in zip(searches, own, strict=True)]


def _scored(search: Search, costs: Mapping[str, Costs]) -> Search:
    """UserError if the costs are of other precisions than the search."""
    points = []
    for precision, own in in_precisions(search.points).items():
        if precision not in costs:
            raise UserError(
                f"{search.folder} is in {precision}, and the first search, whose tables score all, in "
                f"{' and '.join(costs)}; give searches of one precision"
            )
        columns = costs[precision].batch([costs[precision].space.from_json(p["arch"]) for p in own])
        rows = ({name: float(column[i]) for name, column in columns.items()} for i in range(len(own)))
        points += [{**p, **row} for p, row in zip(own, rows, strict=True)]
    return replace(search, points=tuple(points))


def reference_of(searches: Sequence[Search]) -> Reference:
    """Of searches that are comparable.

    Raises:
        UserError: no search evaluated the largest network, and the table that tells its MES is gone or is another.
    """
    run_folder = searches[0].folder.parent
    info = runs.load_classes_info(run_folder)
    space = info.search_space()
    largest = space.to_json(space.largest)
    points = [p for search in searches for p in search.points if p["arch"] == largest]
    known = {precision: of[0]["mes"] for precision, of in in_precisions(points).items()}
    if unknown := [precision for precision in searches[0].tables if precision not in known]:
        costs = _costs(searches[0])
        known |= {precision: float(costs[precision].one(space.largest)["mes"]) for precision in unknown}
    return Reference(1 / info.num_classes, min(known.values()))


def _costs(search: Search) -> dict[str, Costs]:
    """By precision. UserError if a table is gone, or is not the one that the search was made with."""
    space = runs.load_classes_info(search.folder.parent).search_space()
    try:
        paths = {precision: files_of(tables, search.folder.parent) for precision, tables in search.tables.items()}
        tables = {p: {metric: LatencyTable.load(path) for metric, path in own.items()} for p, own in paths.items()}
        return {precision: Costs(space, own, search.objective, precision) for precision, own in tables.items()}
    except UserError as error:
        raise UserError(f"{error}; the MES of {search.folder} needs it") from None
