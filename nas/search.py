"""Search a trained supernet for networks that are accurate, fast and small: the published joint slimming.

Bare: the newest supernet run and the newest latency table that fits it (built first if there is none).
    python -m nas.search --alpha-latency 1.0 --alpha-size 0.5
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from latency_lut.build import BuildConfig, build_table
from latency_lut.table import TABLES, LatencyTable, newest_table
from nas import runs
from nas.evaluator import Evaluator
from nas.objective import UNITS, Objective, Term, pareto
from nas.slimming import Step, slim
from nas.study import Study
from nas.train_supernet import load_supernet
from nas.training import pick_device
from search_spaces import Arch, CostTable, SearchSpace, UserError, num_params
from search_spaces.command import flag, parse, run
from search_spaces.files import read_json, write_json


@dataclass(frozen=True)
class Config:
    alpha_latency: float = flag(1.0, "weight of latency in MES", above=0)
    alpha_size: float = flag(0.5, "weight of the number of parameters in MES", above=0)
    metrics: tuple[Literal["latency", "size"], ...] = flag(("latency", "size"), "metrics that make up MES")
    max_latency_ms: float | None = flag(None, "winners may take at most this time", above=0)
    max_params: float | None = flag(None, "winners may have at most this many parameters", above=0)
    min_accuracy: float | None = flag(None, "winners have at least this accuracy, a fraction", above=0, maximum=1)
    winners: int = flag(3, "winners to pick, spread over the Pareto set", minimum=1)
    run: str | None = flag(None, "run of the supernet (default: the newest)")
    table: str | None = flag(None, "latency table (default: the newest that fits; built if there is none)")
    name: str | None = flag(
        None, "of this search, in its folder search-<name> of the run (default: none, then 2, 3, …)"
    )
    num_images: int | None = flag(None, "images of the search split to evaluate on (default: all)", minimum=1)
    batch_size: int = flag(256, "images of an evaluation batch", minimum=1)
    device: str = flag("auto", "cpu, cuda, …")
    workers: int = flag(0, "processes that load the images (0: this one)", minimum=0)
    resume: bool = flag(False, "go on with the search named, or the newest of the run")


FREE = ("device", "workers", "run", "name", "resume")
LIMITS = ("max_latency_ms", "max_params", "min_accuracy", "winners")  # what is picked, not what is evaluated


class Costs:
    """Latency, parameters, MACs and MES of archs, without a model."""

    def __init__(self, space: SearchSpace, table: LatencyTable | None, objective: Objective) -> None:
        self.space, self.objective = space, objective
        self._of: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "num_params": CostTable(space, lambda block: block.num_params),
            "macs": CostTable(space, lambda block: block.macs),
        }
        if table is not None:
            self._of["latency_ms"] = table.predictor(space)

    def batch(self, archs: Sequence[Arch]) -> dict[str, np.ndarray]:
        encoded = self.space.encode(archs)
        metrics = {name: cost(encoded) for name, cost in self._of.items()}
        return {**metrics, "mes": self.objective.mes(metrics)}

    def one(self, arch: Arch) -> dict[str, Any]:
        metrics = {name: float(values[0]) for name, values in self.batch([arch]).items()}
        return {**metrics, "num_params": round(metrics["num_params"]), "macs": round(metrics["macs"])}


def search(config: Config) -> Path:
    """Runs or resumes a search and returns its folder."""
    run_folder = runs.find_run(config.run, "supernet/result.json", "python -m nas.train_supernet --resume")
    folder = _folder(config, run_folder)
    space = runs.load_run_info(run_folder).search_space()
    objective = _objective(config)
    _check_size_limit(space, objective)
    table = _table(config, space)
    latencies = LatencyTable.load(table) if table else None
    if latencies:
        print(f"latencies of {latencies.provenance.runtime}, from {table}")
        for warning in latencies.warnings:
            print(warning)
    costs = Costs(space, latencies, objective)
    _check_limits(space, costs)
    config = replace(config, table=str(table) if table else None)
    facts = {"table_sha256": hashlib.sha256(table.read_bytes()).hexdigest()} if table else {}
    if config.resume and _is_finished(folder, config, facts):
        print(f"{folder} is finished: nothing to search")
        return folder
    start = time.monotonic()
    data = runs.load_run_data(run_folder)
    supernet = load_supernet(run_folder, pick_device(config.device))
    if not config.resume:
        runs.begin(folder, config, **facts)
    images = data.search.spread(config.num_images or len(data.search))
    evaluator = Evaluator(supernet, images, space.image_size, config.batch_size, config.workers)
    study = Study(folder / "study.journal", space, costs.one)
    steps = _slim(space, costs, evaluator, study)
    result = _result(config, folder, _trajectory(space, steps, costs))
    result |= {"num_images": evaluator.num_images, "num_evaluations": len(study.accuracy)}
    result |= {"minutes": (time.monotonic() - start) / 60}
    write_json(folder / "result.json", result)  # before winners are picked: an infeasible limit loses nothing
    prefix = "winner" if folder.name == "search" else f"{folder.name}-winner"
    chosen = pick_winners(result["trajectory"], objective, config.min_accuracy, config.winners)
    result["winners"] = [{"name": f"{prefix}-{i + 1}", **point} for i, point in enumerate(chosen)]
    write_json(folder / "result.json", result)
    _print(result, folder)
    return folder


def _is_finished(folder: Path, config: Config, facts: dict[str, Any]) -> bool:
    """Whether winners have been picked; until then the limits may change. UserError if another setting differs."""
    path = folder / "result.json"
    finished = path.exists() and bool(read_json(path)["winners"])
    runs.reopen(folder, config, FREE, () if finished else LIMITS, **facts)
    return finished


def _result(config: Config, folder: Path, trajectory: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": runs.command_of(folder),
        "space": trajectory[0]["arch"]["space"],
        "strategy": "slimming",
        "alpha_latency": config.alpha_latency,
        "alpha_size": config.alpha_size,
        "metrics": config.metrics,
        "unit_latency_ms": UNITS["latency_ms"],
        "unit_num_params": UNITS["num_params"],
        "table": config.table,
        "limits": {name: getattr(config, name) for name in ("max_latency_ms", "max_params", "min_accuracy")},
        "trajectory": trajectory,
        "winners": [],
    }


def _slim(space: SearchSpace, costs: Costs, evaluator: Evaluator, study: Study) -> list[Step]:
    def mes(archs: Sequence[Arch]) -> Sequence[float]:
        return costs.batch(archs)["mes"].tolist()

    longest = sum(len(c.options) - 1 for c in space.choices)
    steps = []
    with tqdm(total=longest, desc=f"slimming {space.name}", unit="step") as bar:
        for step in slim(space, mes, lambda base, archs: study.accuracies(base, archs, evaluator.accuracies)):
            steps.append(step)
            bar.update(0 if step.action is None else 1)
            bar.set_postfix(accuracy=f"{100 * step.accuracy:.1f}%", MES=f"{step.mes:.4g}", archs=len(study.accuracy))
        bar.total = bar.n  # a dropped block takes its other choices with it
        bar.refresh()
    return steps


def _trajectory(space: SearchSpace, steps: list[Step], costs: Costs) -> list[dict[str, Any]]:
    front = pareto(np.array([[step.accuracy, step.mes] for step in steps]))
    return [
        {
            "step": i,
            "action": None
            if step.action is None
            else {"choice": step.action.choice, "before": step.action.before, "after": step.action.after},
            "arch": space.to_json(step.arch),
            "accuracy": step.accuracy,
            **costs.one(step.arch),
            "mes": step.mes,
            "pareto": bool(front[i]),
        }
        for i, step in enumerate(steps)
    ]


def pick_winners(
    trajectory: list[dict[str, Any]], objective: Objective, min_accuracy: float | None, count: int
) -> list[dict[str, Any]]:
    """The Pareto set of what is within the limits, spread evenly over log MES from the most accurate to the best MES.

    Raises:
        UserError: none is within the limits; the message names each limit's nearest feasible value.
    """
    allowed = [p for p in trajectory if objective.feasible(p)]
    if not allowed:
        raise UserError(_infeasible(objective, trajectory))
    enough = [p for p in allowed if p["accuracy"] >= (min_accuracy or 0)]
    if not enough:
        best = max(p["accuracy"] for p in allowed)
        raise UserError(f"no network found reaches accuracy {min_accuracy}; the best within the limits has {best:.4f}")
    front = pareto(np.array([[p["accuracy"], p["mes"]] for p in enough]))
    feasible = [point for point, on_front in zip(enough, front, strict=True) if on_front]
    feasible.sort(key=lambda p: p["mes"])
    scores = np.log([p["mes"] for p in feasible])
    targets = np.linspace(scores[0], scores[-1], count) if count > 1 else scores[:1]
    nearest = dict.fromkeys(int(np.abs(scores - t).argmin()) for t in targets)
    return [feasible[i] for i in nearest]


def _infeasible(objective: Objective, points: list[dict[str, Any]]) -> str:
    broken = {n: limit for n, limit in objective.limits.items() if not any(p[n] <= limit for p in points)}
    if not broken:
        return "no network is within all limits at once; relax one of " + ", ".join(objective.limits)
    return "; ".join(
        f"no network has {n} of at most {limit:g}, the smallest is {min(p[n] for p in points):.6g}"
        for n, limit in broken.items()
    )


def _check_size_limit(space: SearchSpace, objective: Objective) -> None:
    """Names a limit below the size of the smallest network before a table is measured."""
    smallest = {"num_params": num_params(space, space.smallest)}
    size = Objective(objective.terms, {n: limit for n, limit in objective.limits.items() if n in smallest})
    if not size.feasible(smallest):
        raise UserError(_infeasible(size, [smallest]))


def _check_limits(space: SearchSpace, costs: Costs) -> None:
    """Names limits below what the smallest network needs before anything is evaluated."""
    smallest = costs.one(space.smallest)
    if not costs.objective.feasible(smallest):
        raise UserError(_infeasible(costs.objective, [smallest]))


def _objective(config: Config) -> Objective:
    if not config.metrics:
        raise UserError("--metrics is empty; give latency, size or both")
    terms = {
        "latency": Term("latency_ms", UNITS["latency_ms"], config.alpha_latency),
        "size": Term("num_params", UNITS["num_params"], config.alpha_size),
    }
    limits = {"latency_ms": config.max_latency_ms, "num_params": config.max_params}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return Objective(tuple(terms[name] for name in config.metrics), given)


def _table(config: Config, space: SearchSpace) -> Path | None:
    if config.table is not None:
        return Path(config.table)
    if "latency" not in config.metrics and config.max_latency_ms is None:
        return None
    path = newest_table(TABLES, space)
    if path is None:
        print(f"no latency table of {space.name} under {TABLES}/: measuring this machine")
        build = BuildConfig(space=space.name, image_size=space.image_size, num_classes=space.num_classes)
        path = build_table(build)
    return path


def _folder(config: Config, run_folder: Path) -> Path:
    if config.name is not None:
        runs.check_name("--name", config.name)
        folder = run_folder / f"search-{config.name}"
    elif config.resume:
        newest = runs.newest(run_folder, "search*/config.json")
        folder = newest.parent if newest else run_folder / "search"
    else:
        taken = [path.name for path in run_folder.glob("search*")]
        names = ("search", *(f"search-{i}" for i in range(2, len(taken) + 3)))
        folder = run_folder / next(name for name in names if name not in taken)
    if config.resume and not (folder / "config.json").exists():
        raise UserError(f"there is no search {folder} to resume; run without --resume")
    if not config.resume:
        runs.check_new(folder, "--name")
    return folder


def _print(result: dict[str, Any], folder: Path) -> None:
    front = sum(p["pareto"] for p in result["trajectory"])
    print(f"{len(result['trajectory'])} steps, {result['num_evaluations']} archs evaluated, {front} on the front")
    print(f"{'':20} {'accuracy':>9} {'latency ms':>11} {'params':>10} {'MACs M':>8} {'MES':>9}")
    for w in result["winners"]:
        latency = f"{w['latency_ms']:.4f}" if "latency_ms" in w else "-"
        print(
            f"{w['name']:20} {100 * w['accuracy']:8.2f}% {latency:>11} {w['num_params']:>10,} "
            f"{w['macs'] / 1e6:8.2f} {w['mes']:9.4g}"
        )
    print(f"wrote {folder}/result.json")


def main(argv: Sequence[str] | None = None) -> None:
    def parsed(defaults: Config) -> Config:
        return parse(Config, argv, "python -m nas.search", __doc__ or "", defaults)

    config = parsed(Config())
    if config.resume:
        folder = _folder(config, runs.find_run(config.run, "search*/config.json", "python -m nas.search"))
        name = folder.name.removeprefix("search").removeprefix("-") or None
        config = replace(parsed(runs.begun(folder, Config)), run=str(folder.parent), name=name)
    search(config)


if __name__ == "__main__":
    run(main, "go on with --resume")
