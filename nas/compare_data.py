"""Searches as `nas.compare` reads them: what each evaluated, in order, and whether they can be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from latency_lut.table import LatencyTable
from nas import runs
from nas.costs import Costs
from nas.objective import UNITS, Objective, Term
from nas.search import FREE
from search_spaces import SearchSpace, UserError
from search_spaces.files import read_json, sha256

Json = dict[str, Any]

# What makes no other strategy of a search: where and how fast, what is picked afterwards, and what `identity` holds.
NO_SETTINGS = {*FREE, "command", "storage", "strategy", "seed", "winners", "min_accuracy"}
NO_SETTINGS |= {"metrics", "num_images", "calibration_images", "batch_size", "table", "table_sha256", "supernet_sha256"}
NUMBERS = ("accuracy", "mes", "num_params")  # of every evaluation; `latency_ms` if there is a table
MEASURES = {"latency": "latency_ms", "size": "num_params"}  # by their names in a search's `metrics`


@dataclass(frozen=True)
class Search:
    """A finished search.

    Args:
        settings: of the strategy; searches that differ in their seeds alone have the same.
        identity: what searches must share to be compared, by names that a message can show.
        points: evaluated archs in order, with `accuracy`, `mes`, `num_params` and, with a table, `latency_ms`.
        evaluations: (points,) archs evaluated when each point was known.
        minutes_at: (points,) minutes since the start when each point was known; None if that was not recorded.
    """

    folder: Path
    strategy: str
    seed: int | None
    settings: Json
    identity: Json
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
    """Where hypervolume begins: the accuracy of guessing, and the MES of the space's largest network.

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
    result, config = read_json(path), read_json(folder / "config.json")
    info = runs.load_run_info(run_folder)
    try:
        points, evaluations = _points(result, info.search_space())
        seconds = [p["seconds_since_start"] for p in points if p.get("seconds_since_start") is not None]
        search = Search(
            folder=folder,
            strategy=result["strategy"],
            seed=result.get("seed"),
            settings=_settings(result, config),
            identity=_identity(result, config, info, run_folder),
            points=tuple(points),
            evaluations=evaluations,
            minutes_at=np.array(seconds) / 60 if len(seconds) == len(points) else None,
            minutes=result["minutes"],
        )
        _check_numbers(search)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a search's result of this version ({error}); search again") from None
    return search


def _settings(result: Json, config: Json) -> Json:
    chosen = {k: v for k, v in config.items() if k not in NO_SETTINGS and not k.startswith("alpha_")}
    return {**chosen, "budget": result.get("budget")}  # a default is that number


def _points(result: Json, space: SearchSpace) -> tuple[list[Json], np.ndarray]:
    """What was evaluated, and how many archs had been evaluated by then.

    Results of slimming from before there were other strategies hold the trajectory only; a step of it was known when
    the frontiers up to it had been evaluated.
    """
    if "evaluations" in result:
        return result["evaluations"], np.arange(1.0, len(result["evaluations"]) + 1)
    points = result["trajectory"]
    frontiers = [len(space.slim(space.from_json(p["arch"]))) for p in points[:-1]]
    return points, np.minimum(np.cumsum([1.0, *frontiers]), result["num_evaluations"])


def _check_numbers(search: Search) -> None:
    """ValueError unless there are evaluations and all have finite numbers."""
    if not search.points:
        raise ValueError("nothing was evaluated")
    names = [*NUMBERS, *(["latency_ms"] if "latency_ms" in search.points[0] else [])]
    numbers = np.array([[p[name] for name in names] for p in search.points], dtype=float)
    if not (np.isfinite(numbers).all() and (numbers[:, 1] > 0).all()):
        raise ValueError("an evaluation is not finite, or its mes not above 0")


# ---- what can be compared


def _identity(result: Json, config: Json, info: runs.RunInfo, run_folder: Path) -> Json:
    metrics, supernet = sorted(result["metrics"]), run_folder / "supernet" / "supernet.safetensors"
    return {
        "space": f"{info.space} at {info.image_size} px, {info.num_classes} classes",
        "supernet's sha256": config.get("supernet_sha256") or _sha256(supernet.resolve()),
        "search split's digest": info.splits.digest,
        "number of search images": result["num_images"],
        "number of calibration images": result.get("calibration_images", 0),
        "metrics": " ".join(metrics),
        **{f"alpha of {name}": result[f"alpha_{name}"] for name in metrics},
        "latency table's sha256": config.get("table_sha256"),
        "latency table": result["table"] if "table_sha256" not in config else None,
    }


@cache
def _sha256(path: Path) -> str:
    """Supernets in several runs are the same if their files are; one that is gone is like no other run's."""
    return sha256(path) if path.exists() else f"unknown: {path} is missing"


def check_comparable(searches: Sequence[Search]) -> None:
    """Accuracy and MES must mean the same in all.

    Raises:
        UserError: naming the first two searches that differ, and in what.
    """
    first = searches[0]
    for other in searches[1:]:
        for name in dict.fromkeys([*first.identity, *other.identity]):
            a, b = first.identity.get(name), other.identity.get(name)
            if a != b:
                raise UserError(
                    f"cannot compare {first.folder} with {other.folder}: the {name} is {a} in the one and {b} in the "
                    "other; give searches of one supernet, table and MES"
                )


def reference_of(searches: Sequence[Search]) -> Reference:
    """Of searches that are comparable.

    Raises:
        UserError: no search evaluated the largest network, and the table that tells its MES is gone or is another.
    """
    run_folder = searches[0].folder.parent
    info = runs.load_run_info(run_folder)
    space = info.search_space()
    largest = space.to_json(space.largest)
    known = (p["mes"] for search in searches for p in search.points if p["arch"] == largest)
    mes = next(known, None) or _mes_of_largest(searches[0], space)
    return Reference(1 / info.num_classes, mes)


def _mes_of_largest(search: Search, space: SearchSpace) -> float:
    result = read_json(search.folder / "result.json")
    terms = [Term(m, UNITS[m], result[f"alpha_{name}"]) for name, m in MEASURES.items() if name in result["metrics"]]
    try:
        table = LatencyTable.load(Path(result["table"])) if result["table"] else None
        if table and search.identity["latency table's sha256"] not in (None, _sha256(Path(result["table"]))):
            raise UserError(f"{result['table']} is not the table that {search.folder} was made with")
        return float(Costs(space, table, Objective(tuple(terms), {})).one(space.largest)["mes"])
    except UserError as error:
        raise UserError(
            f"{error}; the MES of the largest network, where hypervolume begins, needs it, as no search evaluated that"
        ) from None
