"""A search of a run: what it evaluates, records and finds, in the folder `search…/` of the run."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from latency_lut.measurement.build import BuildConfig, build_table
from latency_lut.tables.table import TABLES
from nas import runs
from nas.distributed.ray import RayConfig
from nas.evaluation.forwards import Forwards
from nas.evaluation.workers import Done, EvaluatorConfig, LocalEvaluator, RayEvaluator, evaluators, split
from nas.objective.costs import Costs, check_limits
from nas.objective.goals import LIMITS, Goals
from nas.objective.mes import Objective
from nas.objective.metrics import LATENCY
from nas.objective.tables import load_tables, newest, record
from nas.searching.result import Json, as_text, evaluations, found, frame, read_result
from nas.searching.samplers import SEQUENTIAL
from nas.searching.slimming import Step, slim
from nas.searching.storage import check_address, check_storage
from nas.searching.strategies import BUDGET, check_budget, explore
from nas.searching.study import Study
from nas.searching.winners import name_winners, pick_winners
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import amend, check_given, fill, flag
from search_spaces.command.files import sha256, write_json, write_text


@dataclass(frozen=True)
class Config(RayConfig, Goals):
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
    exact: bool = flag(False, "slimming evaluates every action on all images, also those that cannot win")
    only: tuple[str, ...] = flag(
        (), "fields of choices that slimming may shrink, of those that python -m search_spaces shows (default: all)"
    )
    winners: int = flag(3, "winners to pick, spread over the Pareto set", minimum=1)
    run: str | None = flag(None, "run of the supernet (default: the newest)")
    name: str | None = flag(
        None, "of this search, in its folder search-<name> of the run (default: none, then 2, 3, …)"
    )
    storage: str | None = flag(
        None, "database of its study, as in postgresql://me:$PASSWORD@host/nas (default: study.log in its folder)"
    )
    num_images: int | None = flag(None, "images of the search split to evaluate on (default: all)", minimum=1)
    calibration_images: int | None = flag(
        None,
        "training images that each network's norms are recalibrated on, 0: none (default: 2048 if norms are shared)",
        minimum=0,
    )
    batch_size: int = flag(256, "images of an evaluation batch", minimum=1)
    device: str = flag("auto", "cpu, cuda, …")
    num_workers: int = flag(0, "processes that load the images (0: this one)", minimum=0)
    resume: bool = flag(False, "go on with the search named, or the newest of the run")


FREE = ("device", "num_workers", "ray_workers", "ray_address", "run", "name", "resume")
# A search is a function of its settings and asks its study first, so these may change.
AMENDABLE = (*LIMITS, "min_accuracy", "winners", "budget")
MAY_MOVE = ("table", "seed_search")  # their digests are kept


def configure(config: Config) -> Config:
    """The config; what was not given is as the search was begun with."""
    if not config.resume:
        return config
    folder = folder_of(config, runs.find_run(config.run, "search*/config.json", "python -m nas.search"))
    name = folder.name.removeprefix("search").removeprefix("-") or None
    begun = runs.begun(folder, Config)
    check_given(config, begun, folder, ("storage", "ray_address"))
    config = fill(config, begun)
    tables = (text.rpartition("=") for text in config.table)
    table = tuple(f"{label}{sign}{runs.follow(path, folder.parent)}" for label, sign, path in tables)
    return amend(config, run=str(folder.parent), name=name, table=table)


def search(config: Config, folder: Path | None = None) -> Path:
    """Runs or resumes a search and returns its folder.

    Args:
        folder: for a search that is none of the run's own (default: the run's, by `config.name`).

    Raises:
        UserError: nothing to search, limits that no arch meets, a study or a table of something else.
    """
    run_folder = runs.find_trained(config.run)
    folder = folder or folder_of(config, run_folder)
    space = runs.load_run_info(run_folder).search_space()
    _check_flags(config, space)
    if config.storage:
        check_address(config.storage)
    start = _start(config, run_folder, space)
    check_budget(config.strategy, config.budget, start)
    costs, paths = _costs(config, space)
    tables = record(paths)
    config = replace(config, table=config.table or tuple(map(str, paths.values())))
    facts = _facts(run_folder, tables, start)
    changed = _reopen(folder, config, facts) if config.resume else {}
    if config.resume and _is_finished(folder, config):
        runs.record(folder, changed)
        print(f"{folder} is finished: nothing to search")
        return folder
    name = _study_name(folder, config)
    if config.storage:
        check_storage(config.storage, None if config.resume else name, name if "storage" in changed else None)
    of = (config.num_images, config.calibration_images, config.batch_size, config.device, config.num_workers)
    with evaluators(config, EvaluatorConfig(run_folder, *of)) as evaluator:
        images = {"num_images": evaluator.num_images, "calibration_images": evaluator.num_calibration_images}
        if not config.resume:
            runs.check_new(folder, "--name")  # once more: reading images takes a while
            # before there is a study: a kill between the two leaves what can go on
            runs.begin(folder, config, **facts, study=name)
        place = config.storage or folder / "study.log"
        terms = costs.objective.to_json()["terms"]
        study = Study(place, name, space, costs.one, {**facts, **images, "objective": terms})
        runs.record(folder, changed)
        if not config.storage:  # an address may hold a password
            has_it = importlib.util.find_spec("optuna_dashboard") is not None
            remedy = "" if has_it else " (pip install 'mobile-nas[dashboard]')"
            print(f"to watch it, beside this: optuna-dashboard {place}{remedy}", flush=True)
        forwards = Forwards(space, evaluator.num_images, evaluator.calibration)
        steps = _slim(config, costs, evaluator, study, forwards) if config.strategy == "slimming" else []
        if not steps:
            _explore(config, costs, evaluator, study, start)
    result = _result(config, folder, costs) | {"tables": tables}
    result |= found(study.evaluations, study.dropped, steps, costs)
    if steps:
        result |= {"num_dropped": len(study.dropped), "image_forwards": forwards.to_json()}
    _pick(config, folder, costs.objective, result | {**images, "minutes": study.seconds / 60})
    return folder


def _costs(config: Config, space: SearchSpace) -> tuple[Costs, dict[str, Path]]:
    """The costs and their tables; one is measured only if the limits on all else can be met."""
    objective = config.objective()
    check_limits(Costs(space, {}, objective), config.only)
    paths = config.tables()
    if not paths and config.needs_latency:
        paths = newest(space) or {LATENCY: _build(space)}
    costs = Costs(space, load_tables(paths, space), objective)
    check_limits(costs, config.only)
    return costs, paths


def _pick(config: Config, folder: Path, objective: Objective, result: Json) -> None:
    """Writes the result, at first without winners: limits that none meets lose nothing."""
    path = folder / "result.json"
    before = read_result(folder) if path.exists() else {"winners": [], "earlier_winners": []}
    earlier = [*before["winners"], *before["earlier_winners"]]
    write_json(path, {**result, "winners": [], "earlier_winners": earlier})
    write_text(folder / "result.csv", frame(evaluations(result)).to_csv(index=False))
    points = result["trajectory"] if "trajectory" in result else result["evaluations"]
    chosen = pick_winners(points, objective, config.min_accuracy, config.winners)
    prefix = "winner" if folder.name == "search" else f"{folder.name}-winner"
    winners = name_winners(chosen, earlier, prefix)
    names = [winner["name"] for winner in winners]
    others = [winner for winner in earlier if winner["name"] not in names]
    settings = {name: getattr(config, name) for name in AMENDABLE}
    result |= {"winners": winners, "earlier_winners": others, "settings": settings}
    write_json(path, result)
    print(as_text(result, folder))
    if others:
        print(f"no longer winners, what was trained of them stays: {', '.join(w['name'] for w in others)}")


def _facts(run_folder: Path, tables: Json, start: Sequence[Arch]) -> Json:
    """What a search depends on beside its settings: digests."""
    facts: Json = {"tables_sha256": {metric: table["sha256"] for metric, table in tables.items()}}
    if start:
        facts["seed_archs_sha256"] = hashlib.sha256(repr(start).encode()).hexdigest()
    return {**facts, "supernet_sha256": sha256(run_folder / "supernet/supernet.safetensors")}


def _study_name(folder: Path, config: Config) -> str:
    """As it was begun with, wherever the run or the search has moved since."""
    if config.resume:
        return runs.fact(folder, "study", str)
    return f"{folder.parent.resolve().name}/{folder.name}"


def _reopen(folder: Path, config: Config, facts: Json) -> Json:
    """What is to be recorded. UserError if a setting differs that may not change."""
    free = tuple(name for name in FREE if name != "ray_workers" or config.strategy not in SEQUENTIAL)
    places = (*MAY_MOVE, "storage") if config.storage else MAY_MOVE
    return runs.reopen(folder, config, free, (*AMENDABLE, *places), **facts)


def _is_finished(folder: Path, config: Config) -> bool:
    """Whether winners have been picked with these settings."""
    path = folder / "result.json"
    settings = read_result(folder).get("settings") if path.exists() else None  # none: winners are not picked yet
    return settings == {n: list(v) if isinstance(v := getattr(config, n), tuple) else v for n in AMENDABLE}


def _slim(
    config: Config, costs: Costs, evaluator: LocalEvaluator | RayEvaluator, study: Study, forwards: Forwards
) -> list[Step]:
    space = costs.space
    steps: list[Step] = []

    def mes(archs: Sequence[Arch]) -> Sequence[float]:
        return costs.batch(archs)["mes"].tolist()

    def accuracies(base: Arch, archs: Sequence[Arch], gains: Sequence[float]) -> Sequence[float | None]:
        if gains and not config.exact:
            assert isinstance(evaluator, LocalEvaluator)
            race = study.race(base, archs, gains, evaluator.race, len(steps))
            forwards.add(base, archs, race)
            return [None if finish.dropped else finish.accuracy for finish in race]

        def evaluate(new: Sequence[Arch]) -> Iterator[Done]:
            return evaluator.evaluate([(base, group) for group in split(space, base, new, evaluator.count)])

        forwards.add(base, archs)
        return study.accuracies(archs, evaluate, len(steps))

    longest = sum(len(c.options) - 1 for c in space.choices)
    with tqdm(total=longest, desc=f"slimming {space.name}", unit="step") as bar:
        for step in slim(space, mes, accuracies, config.only):
            steps.append(step)
            evaluated = len(study.evaluations) + len(study.dropped)
            bar.update(0 if step.action is None else 1)
            bar.set_postfix(accuracy=f"{100 * step.accuracy:.1f}%", MES=f"{step.mes:.4g}", archs=evaluated)
            if config.budget and evaluated >= config.budget:
                break
        bar.total = bar.n  # a dropped block takes its other choices with it
        bar.refresh()
    return steps


def _explore(
    config: Config, costs: Costs, evaluator: LocalEvaluator | RayEvaluator, study: Study, start: Sequence[Arch]
) -> None:
    budget, batches = config.budget or BUDGET, 0
    with tqdm(total=budget, desc=f"{config.strategy} search of {costs.space.name}", unit="arch") as bar:

        def each(archs: Sequence[Arch]) -> Iterator[Done]:
            for done in evaluator.evaluate([(arch, (arch,)) for arch in archs]):
                yield done
                bar.update()

        def evaluate(archs: Sequence[Arch]) -> list[float]:
            nonlocal batches
            accuracies = study.accuracies(archs, each, batches)
            bar.update(len(study.evaluations) - bar.n)  # those that were known
            batches += 1
            return accuracies

        explore(config.strategy, costs, evaluate, budget, config.seed, start, _at_once(config))
        if not bar.n:
            raise UserError(f"no network within the limits was found; relax {', '.join(costs.objective.limits)}")
        if bar.n < budget:
            print(f"the space has no more than {bar.n} archs within the limits, or they are hard to find")


def _at_once(config: Config) -> int:
    """Archs that the strategy asks for before it is told of any, where that changes what it finds: else 1."""
    return max(1, config.ray_workers) if config.strategy in SEQUENTIAL else 1


def _check_flags(config: Config, space: SearchSpace) -> None:
    config.check_workers()
    if config.exact and config.strategy != "slimming":
        raise UserError(f"--exact is for --strategy slimming, {config.strategy} has no races; leave it out")
    if config.strategy == "slimming" and config.ray_workers and not config.exact:
        raise UserError(
            f"--ray-workers is {config.ray_workers}, but the actions of a race wait for one another; add --exact"
        )
    known = dict.fromkeys(choice.field for choice in space.choices)
    if config.only and config.strategy != "slimming":
        raise UserError(f"--only is for --strategy slimming, not {config.strategy}; leave it out")
    if unknown := [name for name in config.only if name not in known]:
        raise UserError(f"--only {' '.join(unknown)}: {space.name} has no such choice; choose from {', '.join(known)}")


def _start(config: Config, run_folder: Path, space: SearchSpace) -> list[Arch]:
    """The archs that `--seed-search` names. UserError if there are none, or if the strategy cannot use them."""
    if config.seed_search is None:
        return []
    if config.strategy != "predictor":
        raise UserError(f"--seed-search is for --strategy predictor, not {config.strategy}; leave it out")
    runs.check_name("--seed-search", config.seed_search)
    path = run_folder / config.seed_search / "result.json"
    if not path.exists():
        found = sorted(path.parent.name for path in run_folder.glob("search*/result.json"))
        raise UserError(f"no finished search {path.parent}; choose from {', '.join(found) or 'none'}")
    result = read_result(path.parent)
    points = result.get("trajectory") or [result["evaluations"][i] for i in result["front"]]
    return [space.from_json(point["arch"]) for point in points]


def _result(config: Config, folder: Path, costs: Costs) -> Json:
    return {
        "command": runs.command_of(folder),
        "space": costs.space.name,
        "strategy": config.strategy,
        "seed": config.seed,
        "seed_search": config.seed_search,
        "asynchronous": _at_once(config) if _at_once(config) > 1 else None,
        "only": config.only,
        "budget": config.budget or (None if config.strategy == "slimming" else BUDGET),
        "objective": costs.objective.to_json(),
        "min_accuracy": config.min_accuracy,
    }


def _build(space: SearchSpace) -> Path:
    print(f"no latency table of {space.name} under {TABLES}/: measuring this machine")
    build = BuildConfig(space=space.name, image_size=space.image_size, num_classes=space.num_classes)
    return build_table(build)


def folder_of(config: Config, run_folder: Path) -> Path:
    """The search's folder: the one to go on with on `resume`, else the one named or the next that is free."""
    if config.name is not None:
        runs.check_name("--name", config.name)
        folder = run_folder / f"search-{config.name}"
    elif config.resume:
        newest = runs.newest(run_folder, "search*/config.json")
        folder = newest.parent if newest else run_folder / "search"
    else:
        taken = [path.parent.name for path in run_folder.glob("search*/config.json")]
        names = ("search", *(f"search-{i}" for i in range(2, len(taken) + 3)))
        folder = run_folder / next(name for name in names if name not in taken)
    if config.resume and not (folder / "config.json").exists():
        raise UserError(f"there is no search {folder} to resume; run without --resume")
    if not config.resume:
        runs.check_new(folder, "--name")
    return folder
