"""What a search's `result.json` holds: all that was evaluated, in order, its front, and of slimming the trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.costs import Costs
from nas.objective import pareto
from nas.slimming import Step
from nas.study import Evaluation
from search_spaces.command import align

Json = dict[str, Any]


def found(evaluations: Sequence[Evaluation], steps: Sequence[Step], costs: Costs) -> Json:
    """
    Args:
        steps: of slimming, else none.
    """
    points = [
        {
            "index": i,
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


def as_text(result: Json, folder: Path) -> str:
    """How much was evaluated, and a line a winner."""
    steps = f"{len(result['trajectory'])} steps, " if "trajectory" in result else ""
    rows = [("", "accuracy", "latency ms", "params", "MACs M", "MES")]
    rows += [
        (
            w["name"],
            f"{100 * w['accuracy']:.2f}%",
            f"{w['latency_ms']:.4f}" if "latency_ms" in w else "-",
            f"{w['num_params']:,}",
            f"{w['macs'] / 1e6:.2f}",
            f"{w['mes']:.4g}",
        )
        for w in result["winners"]
    ]
    return (
        f"{steps}{result['num_evaluations']} archs evaluated, {len(result['front'])} on the front\n"
        f"{align(rows, '<>>>>>')}\nwrote {folder}/result.json"
    )
