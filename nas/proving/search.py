"""The search whose winners stand beside baselines, found and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latency_lut.backends.base import Backend
from latency_lut.backends.registry import BACKENDS, make_backend
from latency_lut.measurement.validate import backend_of
from latency_lut.tables.table import LatencyTable
from nas import runs
from nas.objective import tables
from nas.objective.costs import Costs
from nas.objective.metrics import LATENCY, latency_metrics
from nas.objective.precisions import Precision, precision_of
from nas.searching.result import files_of, objective_of, read_result, tables_of
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import Flags, flag

ELSEWHERE = "onnxruntime"  # times networks where the table's runtime does not run


@dataclass(frozen=True)
class Config(Flags):
    run: str | None = flag(None, "run of the search (default: the newest with a retrained network)")
    search: str | None = flag(None, "search folder of the run (default: the newest)")
    winners: tuple[str, ...] = flag((), "retrained winners to compare (default: all of the search)")
    latency: str | None = flag(
        None,
        "of a search by several tables, the name of the one that networks are equally fast by (default: its first)",
    )
    max_loss: float = flag(0.0, "points of accuracy that may be lost for speed, beside what chance explains", minimum=0)
    samples: int = flag(40, "undisturbed samples of each network that is timed", minimum=2)
    device: str = flag("auto", "cpu, cuda, …")
    num_workers: int = flag(0, "processes that load the images (0: this one)", minimum=0)


@dataclass(frozen=True)
class Search:
    """
    Args:
        winners: those that are compared, by name.
        metric: the latency that they have equals of.
        suffix: of the names of these equals: empty for the search's first latency.
        precision: that the winners are in.
        costs: by the search's objective and tables.
        backend: that networks are timed by: the table's, or ONNX Runtime where that does not run here.
        recommended: the winner that the search recommends.
    """

    run_folder: Path
    name: str
    space: SearchSpace
    winners: dict[str, Arch]
    metric: str
    suffix: str
    precision: Precision
    table: LatencyTable
    costs: Costs
    backend: Backend
    recommended: str | None

    @property
    def whole(self) -> Path | None:
        """The folder of the fine-tuned network; None where the run was not begun with one."""
        folder = self.trained(runs.WHOLE)
        return folder if (folder / "result.json").exists() else None

    def trained(self, name: str) -> Path:
        """The folder of a network in `retrain/`."""
        return self.run_folder / "retrain" / name

    def latencies_ms(self, archs: Sequence[Arch]) -> np.ndarray:
        """(archs,) by the table."""
        return self.costs.metrics[self.metric](self.space.encode(archs))


def find_search(config: Config) -> Search:
    """
    Raises:
        UserError: no search of that name, or none whose winners were retrained; one that knows no latency; tables that
            are gone or have changed; no ONNX Runtime where the table's runtime does not run.
    """
    runs.check_name("--search", config.search)
    run_folder = runs.find_run(config.run, "retrain/*/result.json", "python -m nas.retrain")
    file = runs.newest(run_folder, f"{config.search or 'search*'}/result.json")
    if file is None:
        raise UserError(f"{run_folder} has no finished {config.search or 'search'}; make one with python -m nas.search")
    result, space = read_result(file.parent), runs.load_classes_info(run_folder).search_space()
    metric, suffix = _metric(config, file, result)
    precision, known = _in_one_precision(config, result)
    loaded = tables.load_tables(files_of(tables_of(result)[precision], run_folder), space)
    backend = _backend_here(loaded[metric])
    archs = {winner["name"]: space.from_json(winner["arch"]) for winner in known}
    winners = _retrained(config, run_folder, archs)
    costs = Costs(space, loaded, objective_of(result), precision)
    recommended = result["recommended"]["name"] if "recommended" in result else None
    return Search(
        run_folder,
        file.parent.name,
        space,
        winners,
        metric,
        suffix,
        precision,
        loaded[metric],
        costs,
        backend,
        recommended,
    )


def _backend_here(table: LatencyTable) -> Backend:
    """The table's runtime; ONNX Runtime, as is then said, where that does not run: a phone's may not."""
    backend, runtime = backend_of(table), table.provenance.runtime
    try:
        backend.describe()
    except UserError:
        precision = runtime.precision if runtime.precision in BACKENDS[ELSEWHERE].precisions else None
        backend = make_backend(ELSEWHERE, runtime.threads or None, precision)
        here = backend.describe()
        print(f"{runtime.runtime}, which has measured the table, does not run here: networks are timed by {here}")
    return backend


def _in_one_precision(config: Config, result: Mapping[str, Any]) -> tuple[Precision, list[dict[str, Any]]]:
    """The precision of the first winner named, and all winners in it: equally fast is said by one table."""
    winners = result["winners"]
    named = [w for w in winners if w["name"] in config.winners] or winners
    precision = precision_of(named[0]) if named else next(iter(tables_of(result)))
    same = [w for w in winners if precision_of(w) == precision]
    if other := [w["name"] for w in winners if w not in same]:
        print(f"the winners in {precision}; for those of another precision, --winners {' '.join(other)}")
    return precision, same


def _metric(config: Config, file: Path, result: Mapping[str, Any]) -> tuple[str, str]:
    """With the suffix of what is made equal by it."""
    known = latency_metrics(result["tables"])
    if not known:
        raise UserError(f"{file} knows no latency, so nothing can be equally fast; search with latency among --metrics")
    metric = f"{LATENCY}_{config.latency}" if config.latency else known[0]
    if metric not in known:
        names = ", ".join(name.removeprefix(f"{LATENCY}_") for name in known)
        raise UserError(f"--latency {config.latency} is no table of {file}; choose from {names}")
    return metric, "" if metric == known[0] else f"-{config.latency}"


def _retrained(config: Config, run_folder: Path, archs: Mapping[str, Arch]) -> dict[str, Arch]:
    """The winners named, or all that are retrained."""
    there = [name for name in archs if (run_folder / "retrain" / name / "result.json").exists()]
    if not there:
        raise UserError(f"{run_folder} has no retrained winner of this search; make them with python -m nas.retrain")
    if unknown := [name for name in config.winners if name not in there]:
        raise UserError(f"--winners {unknown[0]} is no retrained winner; choose from {', '.join(there)}")
    return {name: archs[name] for name in config.winners or there}
