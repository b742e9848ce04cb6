"""Search a trained supernet for networks that are accurate, fast and small.

Bare: the published joint slimming, of the newest supernet run by the newest latency table that fits it (built first if
there is none).
    python -m nas.search --alpha-latency 1.0 --alpha-size 0.5
    python -m nas.search --strategy predictor --budget 150 --seed 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from latency_lut.build import BuildConfig, build_table
from latency_lut.table import TABLES, LatencyTable, newest_table
from nas import runs
from nas.costs import Costs, check_limits
from nas.objective import UNITS, Objective, Term
from nas.search_result import as_text, found
from nas.slimming import Step, slim
from nas.strategies import BUDGET, check_budget, explore
from nas.study import Study
from nas.winners import pick_winners
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import flag, parse, run
from search_spaces.files import read_json, sha256, write_json

if TYPE_CHECKING:
    from nas.evaluator import Evaluator


@dataclass(frozen=True)
class Config:
    strategy: Literal["slimming", "random", "nsga2", "tpe", "gp", "predictor"] = flag("slimming", "how to search")
    budget: int | None = flag(
        None,
        "networks to evaluate (default: 500; slimming ends by itself, or after the step that reaches it)",
        minimum=1,
    )
    seed: int = flag(0, "of every strategy but slimming, which has no randomness", minimum=0)
    seed_search: str | None = flag(
        None, "folder of a finished search of the run: predictor begins with its trajectory, or its front"
    )
    alpha_latency: float = flag(1.0, "weight of latency in MES", above=0)
    alpha_size: float = flag(0.5, "weight of the number of parameters in MES", above=0)
    metrics: tuple[Literal["latency", "size"], ...] = flag(("latency", "size"), "metrics that make up MES")
    max_latency_ms: float | None = flag(None, "winners may take at most this time", above=0)
    max_params: float | None = flag(None, "winners may have at most this many parameters", above=0)
    max_macs: float | None = flag(None, "winners may have at most this many multiply-accumulates", above=0)
    min_accuracy: float | None = flag(None, "winners have at least this accuracy, a fraction", above=0, maximum=1)
    winners: int = flag(3, "winners to pick, spread over the Pareto set", minimum=1)
    run: str | None = flag(None, "run of the supernet (default: the newest)")
    table: str | None = flag(None, "latency table (default: the newest that fits; built if there is none)")
    name: str | None = flag(
        None, "of this search, in its folder search-<name> of the run (default: none, then 2, 3, …)"
    )
    storage: str | None = flag(
        None, "database of its study, as in postgresql://me:$PASSWORD@host/nas (default: study.db in its folder)"
    )
    num_images: int | None = flag(None, "images of the search split to evaluate on (default: all)", minimum=1)
    calibration_images: int | None = flag(
        None,
        "training images that each network's norms are recalibrated on, 0: none (default: 2048 if norms are shared)",
        minimum=0,
    )
    batch_size: int = flag(256, "images of an evaluation batch", minimum=1)
    device: str = flag("auto", "cpu, cuda, …")
    loaders: int = flag(0, "processes that load the images (0: this one)", minimum=0)
    resume: bool = flag(False, "go on with the search named, or the newest of the run")


FREE = ("device", "loaders", "run", "name", "resume")
LIMITS = {"max_latency_ms": "latency_ms", "max_params": "num_params", "max_macs": "macs"}  # the metrics they are of
# A search is a function of its settings and asks its study first, so these may change until winners are picked.
AMENDABLE = (*LIMITS, "min_accuracy", "winners", "budget")


def search(config: Config) -> Path:
    """Runs or resumes a search and returns its folder.

    Raises:
        UserError: nothing to search, limits that no arch meets, a study or a table of something else.
    """
    run_folder = runs.find_run(config.run, "supernet/result.json", "python -m nas.train_supernet --resume")
    folder = _folder(config, run_folder)
    space = runs.load_run_info(run_folder).search_space()
    objective = _objective(config)
    check_budget(config.strategy, config.budget)
    start = _start(config, run_folder, space)
    check_limits(Costs(space, None, objective))  # before a table is measured
    table = _table(config, space)
    latencies = LatencyTable.load(table) if table else None
    if latencies:
        print(f"latencies of {latencies.provenance.runtime}, from {table}")
        for warning in latencies.warnings:
            print(warning)
    costs = Costs(space, latencies, objective)
    check_limits(costs)
    config = replace(config, table=str(table) if table else None)
    facts = {"table_sha256": sha256(table) if table else None}
    facts["supernet_sha256"] = sha256(run_folder / "supernet/supernet.safetensors")
    if config.resume and _is_finished(folder, config, facts):
        print(f"{folder} is finished: nothing to search")
        return folder
    evaluator = _evaluator(config, run_folder)
    images = {"num_images": evaluator.num_images, "calibration_images": evaluator.num_calibration_images}
    study = _study(config, folder, costs, {**facts, **images})
    if not config.resume:
        runs.begin(folder, config, **facts)
    steps = _slim(config, space, costs, evaluator, study) if config.strategy == "slimming" else []
    if not steps:
        _explore(config, costs, evaluator, study, start)
    result = _result(config, folder, space) | found(study.evaluations, steps, costs)
    result |= {**images, "minutes": study.seconds / 60}
    write_json(folder / "result.json", result)  # before winners are picked: an infeasible limit loses nothing
    prefix = "winner" if folder.name == "search" else f"{folder.name}-winner"
    points = result["trajectory"] if steps else result["evaluations"]
    chosen = pick_winners(points, objective, config.min_accuracy, config.winners)
    result["winners"] = [{"name": f"{prefix}-{i + 1}", **point} for i, point in enumerate(chosen)]
    write_json(folder / "result.json", result)
    print(as_text(result, folder))
    return folder


def _evaluator(config: Config, run_folder: Path) -> Evaluator:
    from nas.evaluator import Evaluator
    from nas.inherit import calibration_batches, calibration_count
    from nas.train_supernet import load_supernet
    from nas.training import pick_device

    data = runs.load_run_data(run_folder)
    supernet = load_supernet(run_folder, pick_device(config.device))
    size, loaders = supernet.space.image_size, config.loaders
    count = calibration_count(supernet, config.calibration_images)
    calibration = calibration_batches(data.train, size, count, supernet.device, loaders)
    images = data.search.spread(config.num_images or len(data.search))
    return Evaluator(supernet, images, size, config.batch_size, loaders, calibration)


def _study(config: Config, folder: Path, costs: Costs, facts: dict[str, Any]) -> Study:
    folder.mkdir(exist_ok=True)
    url = config.storage or f"sqlite:///{folder / 'study.db'}"
    objective = {term.metric: [term.unit, term.alpha] for term in costs.objective.terms}
    name = f"{folder.parent.resolve().name}/{folder.name}"
    return Study(url, name, costs.space, costs.one, {**facts, "objective": objective}, new=not config.resume)


def _is_finished(folder: Path, config: Config, facts: dict[str, Any]) -> bool:
    """Whether winners have been picked; until then some settings may change. UserError if another differs."""
    path = folder / "result.json"
    finished = path.exists() and bool(read_json(path)["winners"])
    runs.reopen(folder, config, FREE, () if finished else AMENDABLE, **facts)
    return finished


def _slim(config: Config, space: SearchSpace, costs: Costs, evaluator: Evaluator, study: Study) -> list[Step]:
    steps: list[Step] = []

    def mes(archs: Sequence[Arch]) -> Sequence[float]:
        return costs.batch(archs)["mes"].tolist()

    def accuracies(base: Arch, archs: Sequence[Arch]) -> list[float]:
        return study.accuracies(base, archs, evaluator.accuracies, len(steps))

    longest = sum(len(c.options) - 1 for c in space.choices)
    with tqdm(total=longest, desc=f"slimming {space.name}", unit="step") as bar:
        for step in slim(space, mes, accuracies):
            steps.append(step)
            evaluated = len(study.evaluations)
            bar.update(0 if step.action is None else 1)
            bar.set_postfix(accuracy=f"{100 * step.accuracy:.1f}%", MES=f"{step.mes:.4g}", archs=evaluated)
            if config.budget and evaluated >= config.budget:
                break
        bar.total = bar.n  # a dropped block takes its other choices with it
        bar.refresh()
    return steps


def _explore(config: Config, costs: Costs, evaluator: Evaluator, study: Study, start: Sequence[Arch]) -> None:
    budget, batches = config.budget or BUDGET, 0
    with tqdm(total=budget, desc=f"{config.strategy} search of {costs.space.name}", unit="arch") as bar:

        def evaluate(archs: Sequence[Arch]) -> list[float]:
            nonlocal batches
            accuracies = []
            for arch in archs:  # one by one: what is finished when the process is killed is kept
                accuracies += study.accuracies(arch, [arch], evaluator.accuracies, batches)
                bar.update()
            batches += 1
            return accuracies

        explore(config.strategy, costs, evaluate, budget, config.seed, start)
        if bar.n < budget:
            print(f"the space has no more than {bar.n} archs within the limits, or they are hard to find")


def _start(config: Config, run_folder: Path, space: SearchSpace) -> list[Arch]:
    """The archs that `--seed-search` names. UserError if there are none, or if the strategy cannot use them."""
    if config.seed_search is None:
        return []
    if config.strategy != "predictor":
        raise UserError(f"--seed-search is for --strategy predictor, not {config.strategy}; leave it out")
    path = run_folder / config.seed_search / "result.json"
    if not path.exists():
        found = sorted(path.parent.name for path in run_folder.glob("search*/result.json"))
        raise UserError(f"no finished search {path.parent}; choose from {', '.join(found) or 'none'}")
    result = read_json(path)
    points = result.get("trajectory") or [result["evaluations"][i] for i in result["front"]]
    return [space.from_json(point["arch"]) for point in points]


def _result(config: Config, folder: Path, space: SearchSpace) -> dict[str, Any]:
    return {
        "command": runs.command_of(folder),
        "space": space.name,
        "strategy": config.strategy,
        "seed": config.seed,
        "seed_search": config.seed_search,
        "budget": config.budget or (None if config.strategy == "slimming" else BUDGET),
        "alpha_latency": config.alpha_latency,
        "alpha_size": config.alpha_size,
        "metrics": config.metrics,
        "unit_latency_ms": UNITS["latency_ms"],
        "unit_num_params": UNITS["num_params"],
        "table": config.table,
        "limits": {name: getattr(config, name) for name in (*LIMITS, "min_accuracy")},
        "winners": [],
    }


def _objective(config: Config) -> Objective:
    if not config.metrics:
        raise UserError("--metrics is empty; give latency, size or both")
    terms = {
        "latency": Term("latency_ms", UNITS["latency_ms"], config.alpha_latency),
        "size": Term("num_params", UNITS["num_params"], config.alpha_size),
    }
    limits = {metric: getattr(config, name) for name, metric in LIMITS.items()}
    given = {metric: limit for metric, limit in limits.items() if limit is not None}
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
