"""A search's `result.json`: all that was evaluated, in order, its front, of slimming the trajectory, and the winners.

Under `objective` is what MES and the limits were, under `tables` the latency tables: whoever shows MES reads it here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas import runs
from nas.objective.costs import Costs
from nas.objective.mes import Objective, Term, pareto
from nas.objective.metrics import LATENCY, columns, shown, unit_of
from nas.searching.slimming import Step
from nas.searching.study import Evaluation
from search_spaces import UserError
from search_spaces.command import align
from search_spaces.command.files import read_json

Json = dict[str, Any]


def read_result(folder: Path) -> Json:
    """The result of the search in this folder.

    Raises:
        UserError: there is none, or it is not of this version.
    """
    path = folder / "result.json"
    found = read_json(path)
    try:
        result: Json = found if "objective" in found else _of_one_table(found, folder)
        kinds = {"objective": dict, "tables": dict, "winners": list, "earlier_winners": list}
        if wrong := [name for name, kind in kinds.items() if not isinstance(result[name], kind)]:
            raise TypeError(f"{wrong[0]} is {result[wrong[0]]!r:.80}")
        names = [winner["name"] for winner in (*result["winners"], *result["earlier_winners"])]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a search's result of this version ({error}); search again") from None
    for name in names:
        runs.check_name(f"a winner in {path}", name)
    return result


def objective_of(result: Json) -> Objective:
    return Objective.from_json(result["objective"])


def _of_one_table(result: Json, folder: Path) -> Json:
    """A result from when MES was of one latency and the size, and each limit a flag's."""
    metrics = {"latency": LATENCY, "size": "num_params"}
    flags = {"max_latency_ms": LATENCY, "max_params": "num_params", "max_macs": "macs"}
    terms = tuple(Term(metrics[m], unit_of(metrics[m]), result[f"alpha_{m}"]) for m in result["metrics"])
    limits = {flags[name]: limit for name, limit in result["limits"].items() if name in flags and limit is not None}
    config = folder / "config.json"
    digest = read_json(config).get("table_sha256") if config.exists() else None
    tables = {LATENCY: {"path": result["table"], "sha256": digest}} if result["table"] else {}
    return {**result, "objective": Objective(terms, limits).to_json(), "tables": tables, "earlier_winners": []}


def found(
    evaluations: Sequence[Evaluation], dropped: Sequence[Evaluation], steps: Sequence[Step], costs: Costs
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
            "accuracy": e.accuracy,
            **costs.one(e.arch),
            "seconds_since_start": e.seconds_since_start,
        }
        for i, e in enumerate(evaluations)
    ]
    front = np.flatnonzero(_on_front(points)).tolist()
    result = {"evaluations": points, "num_evaluations": len(points), "front": front}
    return {**result, "trajectory": _trajectory(steps, costs)} if steps else result


def _trajectory(steps: Sequence[Step], costs: Costs) -> list[Json]:
    points = [
        {
            "step": i,
            "action": _action(step),
            "arch": costs.space.to_json(step.arch),
            "accuracy": step.accuracy,
            **costs.one(step.arch),
            "mes": step.mes,
        }
        for i, step in enumerate(steps)
    ]
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


def as_text(result: Json, folder: Path) -> str:
    """How much was evaluated, and a line a winner."""
    steps = f"{len(result['trajectory'])} steps, " if "trajectory" in result else ""
    costs = columns(result["tables"], result["winners"])
    rows = [("", "accuracy", *(shown(metric).title for metric in costs), "MES")]
    rows += [
        (
            w["name"],
            f"{100 * w['accuracy']:.2f}%",
            *(shown(metric).cell(w[metric]) for metric in costs),
            f"{w['mes']:.4g}",
        )
        for w in result["winners"]
    ]
    return (
        f"{steps}{result['num_evaluations']} archs evaluated, {len(result['front'])} on the front\n"
        f"{align(rows, '<' + '>' * (len(rows[0]) - 1))}\nwrote {folder}/result.json"
    )
