"""A search's `result.json`: all that was evaluated, in order, its front, of slimming the trajectory, and the winners.

Under `objective` is what MES and the limits were, under `tables` the latency tables: whoever shows MES reads it here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

import numpy as np

from nas import runs
from nas.evaluation.intervals import as_text as interval_text
from nas.objective.costs import Costs
from nas.objective.figure import figure_name
from nas.objective.mes import Objective, pareto
from nas.objective.metrics import columns, latency_metrics, metric_of, shown
from nas.objective.precisions import Precision, precision_of
from nas.objective.tables import recorded
from nas.searching.slimming import Step
from nas.searching.study import Evaluation
from nas.searching.winners import APART, Recommendation
from search_spaces.command import align
from search_spaces.command.typed import Amount, Count, Fraction, Positive, load_typed, read_typed

if TYPE_CHECKING:
    import pandas as pd

Json = dict[str, Any]


class Table(TypedDict):
    """A latency table, as `nas.objective.tables.record` says it."""

    path: str
    sha256: str | None


class Known(TypedDict):
    """An arch with its accuracy and metrics by their names, latencies and memory among them, in a precision."""

    arch: Json
    precision: NotRequired[Precision]
    accuracy: Fraction
    num_params: Positive
    macs: Positive
    mes: Positive


def _check_metrics(network: Known) -> None:
    for name, value in network.items():
        if metric_of(name):
            read_typed(Positive, value, name)


class Evaluated(Known):
    index: Count
    num_asked: NotRequired[Count]
    seconds_since_start: NotRequired[Amount | None]


class Shrinking(TypedDict):
    choice: str
    before: int
    after: int


class Taken(Known):
    """A step of slimming's trajectory."""

    step: Count
    action: Shrinking | None
    pareto: bool


class Winner(Known):
    name: runs.Name
    accuracy_interval: NotRequired[list[Fraction]]
    step: NotRequired[Count]
    index: NotRequired[Count]


class SearchResult(TypedDict):
    """A search's `result.json`, as far as it is read; `evaluations` and `front` are all that was tried."""

    command: str
    space: str
    strategy: str
    seed: NotRequired[int | None]
    budget: NotRequired[Count | None]
    objective: Annotated[Json, Objective.from_json]
    tables: dict[str, Table]
    other_tables: NotRequired[dict[Precision, dict[str, Table]]]
    num_evaluations: Count
    num_images: Count
    calibration_images: NotRequired[Count]
    num_dropped: NotRequired[Count]
    minutes: Amount
    evaluations: NotRequired[list[Annotated[Evaluated, _check_metrics]]]
    front: NotRequired[list[Count]]
    trajectory: NotRequired[list[Annotated[Taken, _check_metrics]]]
    winners: list[Annotated[Winner, _check_metrics]]
    earlier_winners: list[Annotated[Winner, _check_metrics]]
    recommended: NotRequired[Recommendation]
    settings: NotRequired[Json]


def check_whole(result: SearchResult) -> None:
    """ValueError unless its parts go together."""
    if "trajectory" not in result and ("evaluations" not in result or "front" not in result):
        raise ValueError("has neither a trajectory nor evaluations and their front")
    evaluations = result.get("evaluations", [])
    if wrong := [i for i in result.get("front", []) if i >= len(evaluations)]:
        raise ValueError(f"has {len(evaluations)} evaluations, but {wrong[0]} on its front")
    if other := [name for name in result["tables"] if not latency_metrics([name])]:
        raise ValueError(f"has a table of {other[0]!r:.80}, which is no latency")
    points = [*evaluations, *result.get("trajectory", []), *result["winners"], *result["earlier_winners"]]
    terms = Objective.from_json(result["objective"]).terms
    for metric in [*result["tables"], *(term.metric for term in terms)]:
        if any(metric not in point for point in points):
            raise ValueError(f"has a network without {metric}")


def read_result(folder: Path) -> Json:
    """The result of the search in this folder, a `SearchResult`.

    Raises:
        UserError: there is none, or it is not of this version.
    """
    hint: Any = Annotated[SearchResult, check_whole]
    return load_typed(hint, folder / "result.json", "restore it, or search again")


def objective_of(result: Json) -> Objective:
    return Objective.from_json(result["objective"])


def recorded_tables(tables: Mapping[str, Json]) -> Json:
    """The tables of each precision as a result has them, from which `tables_of` reads them."""
    (_, first), *others = tables.items()
    return {"tables": first} | ({"other_tables": dict(others)} if others else {})


def tables_of(result: Mapping[str, Any]) -> dict[Precision, dict[str, Any]]:
    """The tables of each precision that a search is in, by metric; `tables` are those of the first."""
    points = [*result.get("trajectory", ()), *result.get("evaluations", ())]
    first = precision_of(points[0]) if points else "float32"
    return {first: result["tables"], **result.get("other_tables", {})}


def digests(tables: Mapping[Precision, Mapping[str, Json]]) -> dict[Precision, dict[str, str]]:
    """What is in tables, by precision and metric, wherever they are: digests; of old results paths."""
    return {p: {metric: table["sha256"] or table["path"] for metric, table in own.items()} for p, own in tables.items()}


def files_of(tables: Mapping[str, Json], run_folder: Path) -> dict[str, Path]:
    """The files of a search's tables in one precision, where they are now if its run has moved and took them along.
    UserError if one is gone or has changed."""
    return recorded(
        {metric: {**table, "path": runs.follow(table["path"], run_folder)} for metric, table in tables.items()}
    )


def found(
    evaluations: Sequence[Evaluation],
    dropped: Sequence[Evaluation],
    steps: Sequence[Step],
    costs: Costs,
    precision: Precision,
) -> Json:
    """All that was evaluated; `num_asked` is how many archs had been asked for by then, as `--budget` counts them.

    Args:
        dropped: from races, by ascending step; all archs of a race are asked for before any of them is known.
        steps: of slimming, else none.
    """
    dropped_at = [e.step for e in dropped]
    points = [
        {
            "index": i,
            "num_asked": i + 1 + bisect_right(dropped_at, e.step),
            "arch": costs.space.to_json(e.arch),
            "precision": precision,
            "accuracy": e.accuracy,
            **costs.one(e.arch),
            "seconds_since_start": e.seconds_since_start,
        }
        for i, e in enumerate(evaluations)
    ]
    front = np.flatnonzero(_on_front(points)).tolist()
    result = {"evaluations": points, "num_evaluations": len(points), "front": front}
    return {**result, "trajectory": _trajectory(steps, costs, precision)} if steps else result


def together(parts: Sequence[Json]) -> Json:
    """What was found in several precisions, one after another, as one result with one front."""
    if len(parts) == 1:
        return parts[0]
    points: list[Json] = []
    steps: list[Json] = []
    for part in parts:
        asked, seconds = (points[-1]["num_asked"], points[-1]["seconds_since_start"]) if points else (0, 0.0)
        points += [
            {
                **point,
                "index": len(points) + point["index"],
                "num_asked": asked + point["num_asked"],
                "seconds_since_start": seconds + point["seconds_since_start"],
            }
            for point in part["evaluations"]
        ]
        steps += [{**step, "step": len(steps) + step["step"]} for step in part.get("trajectory", ())]
    front = np.flatnonzero(_on_front(points)).tolist()
    minutes = sum(part["minutes"] for part in parts)
    result: Json = {"evaluations": points, "num_evaluations": len(points), "front": front, "minutes": minutes}
    if not steps:
        return result
    forwards = {n: sum(part["image_forwards"][n] for part in parts) for n in parts[0]["image_forwards"]}
    counts = {"num_dropped": sum(part["num_dropped"] for part in parts), "image_forwards": forwards}
    return {**result, "trajectory": _with_front(steps), **counts}


def _trajectory(steps: Sequence[Step], costs: Costs, precision: Precision) -> list[Json]:
    points = [
        {
            "step": i,
            "action": _action(step),
            "arch": costs.space.to_json(step.arch),
            "precision": precision,
            "accuracy": step.accuracy,
            **costs.one(step.arch),
            "mes": step.mes,
        }
        for i, step in enumerate(steps)
    ]
    return _with_front(points)


def _with_front(points: Sequence[Json]) -> list[Json]:
    return [{**p, "pareto": bool(on)} for p, on in zip(points, _on_front(points), strict=True)]


def _action(step: Step) -> Json | None:
    if step.action is None:
        return None
    return {"choice": step.action.choice, "before": step.action.before, "after": step.action.after}


def _on_front(points: Sequence[Json]) -> np.ndarray:
    return pareto(np.array([[p["accuracy"], p["mes"]] for p in points]).reshape(-1, 2))


def points_of(search: Json) -> list[Json]:
    """The networks that a search shows, slimming its trajectory, others all: with their number, the `step`, and whether
    they are of the `pareto` set."""
    if "trajectory" in search:
        return list(search["trajectory"])
    front = set(search["front"])
    return [{**point, "step": point["index"], "pareto": point["index"] in front} for point in search["evaluations"]]


def in_precisions(points: Sequence[Json]) -> dict[Precision, list[Json]]:
    """The points of each precision, in their order."""
    return {p: [q for q in points if precision_of(q) == p] for p in dict.fromkeys(map(precision_of, points))}


def evaluations(result: Json) -> list[Json]:
    """All that was evaluated, in order; of an older result of slimming its trajectory."""
    return list(result.get("evaluations") or result["trajectory"])


def frame(points: Sequence[Json]) -> pd.DataFrame:
    """A row for each network: its figures, and a column for each choice, by its name, such as `width.1`."""
    import pandas as pd

    kept = [{k: v for k, v in p.items() if k not in ("arch", "action")} for p in points]
    return pd.DataFrame([{**row, **dict(_choices(p["arch"]))} for row, p in zip(kept, points, strict=True)])


def _choices(arch: Json) -> Iterator[tuple[str, int]]:
    def below(name: str, value: Any) -> Iterator[tuple[str, int]]:
        if not isinstance(value, list):
            yield name, value
            return
        for i, part in enumerate(value):
            yield from below(f"{name}.{i}", part)

    for field, value in arch.items():
        if field != "space":
            yield from below(field, value)


def as_text(result: Json, folder: Path) -> str:
    """How much was evaluated, a line a winner, and which to take."""
    steps = f"{len(result['trajectory'])} steps, " if "trajectory" in result else ""
    costs = columns(result["tables"], result["winners"])
    rows = [
        (
            "",
            "precision",
            f"search {figure_name(result['space'])}, 95 %",
            *(shown(metric).title for metric in costs),
            "MES",
        )
    ]
    rows += [
        (
            w["name"],
            precision_of(w),
            interval_text(w["accuracy"], w["accuracy_interval"]),
            *(shown(metric).cell(w[metric]) for metric in costs),
            f"{w['mes']:.4g}",
        )
        for w in result["winners"]
    ]
    return (
        f"{steps}{result['num_evaluations']} archs evaluated, {len(result['front'])} on the front\n"
        f"{align(rows, '<<' + '>' * (len(rows[0]) - 2))}\n{_fewer(result)}wrote {folder}/result.json and result.csv\n"
        f"{result['recommended']['sentence']}"
    )


def _fewer(result: Json) -> str:
    """Why there are fewer winners than were asked for; empty if there are as many."""
    count, wanted = len(result["winners"]), result["settings"]["winners"]
    if count == wanted:
        return ""
    noise = f"a standard error of {figure_name(result['space'])} on {result['num_images']:,} search images"
    winners = f"{count} winner" if count == 1 else f"{count} winners"
    return f"{winners}, not {wanted}: no other network differs by more than {noise} and {100 * APART:.0f} % of MES\n"
