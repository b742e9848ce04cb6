"""A search of a run: what it evaluates, records and finds, in the folder `search…/` of the run."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from tqdm import tqdm

from nas import runs
from nas.distributed.ray import RayConfig
from nas.evaluation.forwards import Forwards
from nas.evaluation.workers import Done, LocalEvaluator, RayEvaluator, split
from nas.objective.costs import Costs
from nas.objective.figure import classifies, figure_name
from nas.objective.goals import Goals
from nas.objective.precisions import Precision, precision_of
from nas.searching.evaluators import EvaluatorConfig, evaluators
from nas.searching.picking import AMENDABLE, is_finished, pick, put_back
from nas.searching.plan import PlanConfig, as_planned, forecast, races, suited, with_plan
from nas.searching.precisions import Part, parts_of
from nas.searching.result import Json, found, read_result, recorded_tables, together
from nas.searching.samplers import SEQUENTIAL
from nas.searching.slimming import Step, slim
from nas.searching.storage import check_address, check_storage
from nas.searching.strategies import check_budget, default_budget, explore
from nas.searching.study import Study
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import amend, check_given, check_idle, fill, flag
from search_spaces.command.files import sha256


@dataclass(frozen=True)
class Config(RayConfig, PlanConfig, Goals):
    precision: tuple[Precision, ...] = flag(
        (),
        "that networks are searched in, with a table of each (default: that of --table, or of the newest); in int8 "
        "accuracies are those of its arithmetic, in float16 those of float32",
    )
    seed: int = flag(0, "of every strategy but slimming, which has no randomness", minimum=0)
    seed_search: str | None = flag(
        None, "folder of a finished search of the run: predictor begins with its trajectory, or its front"
    )
    winners: int = flag(3, "winners to pick, of the Pareto front; fewer if no more differ beyond noise", minimum=1)
    run: str | None = flag(None, "run of the supernet (default: the newest)")
    name: str | None = flag(
        None, "of this search, in its folder search-<name> of the run (default: none, then 2, 3, …)"
    )
    storage: str | None = flag(
        None, "database of its study, as in postgresql://me:$PASSWORD@host/nas (default: study.log in its folder)"
    )
    batch_size: int = flag(256, "images of an evaluation batch", minimum=1)
    device: str = flag("auto", "cpu, cuda, …")
    num_workers: int = flag(0, "processes that load the images (0: this one)", minimum=0)
    resume: bool = flag(False, "go on with the search named, or the newest of the run")


FREE = ("device", "num_workers", "ray_workers", "ray_address", "run", "name", "resume")
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
    return amend(config, run=str(folder.parent), name=name, table=followed(config.table, folder.parent))


def followed(table: Sequence[str], run_folder: Path) -> tuple[str, ...]:
    """Tables as --table names them, where they are now if the run has moved and took them along."""
    tables = (text.rpartition("=") for text in table)
    return tuple(f"{label}{sign}{runs.follow(path, run_folder)}" for label, sign, path in tables)


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
    config = as_planned(config, runs.begun(folder, Config)) if config.resume else _implied(config, space)
    _check_flags(config, space)
    if config.storage:
        check_address(config.storage)
    start = _start(config, run_folder, folder, space)
    check_budget(config.strategy, config.budget)
    parts = parts_of(config, config.precision, space, config.only)
    if "int8" in parts and not classifies(space.name):  # as a table had it
        raise UserError(
            "the table is of int8, which is for networks that classify; give one of float32 with --table, or "
            f"--precision float32, to search by {figure_name(space.name)}"
        )
    for part in parts.values():
        check_budget(config.strategy, config.budget, part.costs, start)
    first = next(iter(parts.values()))
    if not (config.resume or config.ray_workers):
        config = with_plan(config, run_folder, first.costs, config.device, parts)
        _check_flags(config, space)  # by now there is a strategy
    config = replace(config, precision=tuple(parts), table=tuple(t for part in parts.values() for t in part.table))
    facts = _facts(run_folder, parts, start)
    changed = _reopen(folder, config, facts) if config.resume else {}
    if config.resume and is_finished(folder, config):
        runs.record(folder, changed)
        print(f"{folder} is finished: nothing to search")
        return folder
    name = _study_name(folder, config)
    names = {p: name if p == config.precision[0] else f"{name}/{p}" for p in config.precision}
    for each in names.values() if config.storage else ():
        check_storage(str(config.storage), None if config.resume else each, each if "storage" in changed else None)
    of = (config.num_images, config.calibration_images, config.batch_size, config.device, config.num_workers)
    with evaluators(config, EvaluatorConfig(run_folder, *of, config.precision)) as evaluator:
        images = {"num_images": evaluator.num_images, "calibration_images": evaluator.num_calibration_images}
        if not config.resume:
            runs.check_new(folder, "--name")  # once more: reading images takes a while
            # before there is a study: a kill between the two leaves what can go on
            archs = {"seed_archs": [space.to_json(arch) for arch in start]} if start else {}
            runs.begin(folder, config, **facts, **archs, study=name)
        place = config.storage or folder / "study.log"
        terms = first.costs.objective.to_json()["terms"]
        studies = {
            p: Study(place, each, space, parts[p].costs.one, {**facts, **images, "objective": terms, "precision": p})
            for p, each in names.items()
        }
        runs.record(folder, changed)
        if config.resume or config.ray_workers:
            for p, study in studies.items():
                study.forecast = forecast(config, parts[p].costs, study.recorded)
        if not config.storage:  # an address may hold a password
            has_it = importlib.util.find_spec("optuna_dashboard") is not None
            remedy = "" if has_it else " (pip install optuna-dashboard)"
            print(f"to watch it, beside this: optuna-dashboard {place}{remedy}", flush=True)

        def answers(points: Sequence[Json]) -> np.ndarray:
            return np.stack([evaluator.scores([space.from_json(q["arch"])], precision_of(q))[0] for q in points])

        with put_back(folder):
            evaluated = [_evaluated(config, p, part.costs, evaluator, studies[p], start) for p, part in parts.items()]
            tables = recorded_tables({p: part.tables for p, part in parts.items()})
            result = _result(config, folder, first.costs) | together(evaluated) | tables
            result |= images
            pick(config, folder, space, result, answers)
    return folder


def _implied(config: Config, space: SearchSpace) -> Config:
    """With the strategy that other flags leave, if it is one, and its budget."""
    options = ("predictor",) if config.seed_search and not config.strategy else suited(config, space)
    if config.ray_workers:  # nothing is planned for these, and the actions of a race wait for one another
        options = options[-1:] if races(config, space) else options[:1]
    strategy = options[0] if len(options) == 1 else None
    budget = config.budget if strategy in (None, "slimming") else config.budget or default_budget(str(strategy))
    return amend(config, strategy=strategy, budget=budget)


def _facts(run_folder: Path, parts: Mapping[Precision, Part], start: Sequence[Arch]) -> Json:
    """What a search depends on beside its settings: digests."""
    several = len(parts) > 1
    tables = {
        f"{metric} {precision}" if several else metric: table["sha256"]
        for precision, part in parts.items()
        for metric, table in part.tables.items()
    }
    facts: Json = {"tables_sha256": tables}
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


def _evaluated(
    config: Config,
    precision: Precision,
    costs: Costs,
    evaluator: LocalEvaluator | RayEvaluator,
    study: Study,
    start: Sequence[Arch],
) -> Json:
    """What the strategy finds, and the minutes that it takes."""
    study.start_clock()  # all studies are open, and this one may have waited for others
    if config.strategy != "slimming":
        _explore(config, precision, costs, evaluator, study, start)
        return found(study.evaluations, study.dropped, (), costs, precision) | {"minutes": study.seconds / 60}
    forwards = Forwards(costs.space, evaluator.num_images, evaluator.calibration(precision))
    steps = _slim(config, precision, costs, evaluator, study, forwards)
    counts = {"num_dropped": len(study.dropped), "image_forwards": forwards.to_json(), "minutes": study.seconds / 60}
    return found(study.evaluations, study.dropped, steps, costs, precision) | counts


def _slim(
    config: Config,
    precision: Precision,
    costs: Costs,
    evaluator: LocalEvaluator | RayEvaluator,
    study: Study,
    forwards: Forwards,
) -> list[Step]:
    space = costs.space
    steps: list[Step] = []

    def mes(archs: Sequence[Arch]) -> Sequence[float]:
        return costs.batch(archs)["mes"].tolist()

    def accuracies(base: Arch, archs: Sequence[Arch], gains: Sequence[float]) -> Sequence[float | None]:
        if gains and races(config, space):
            assert isinstance(evaluator, LocalEvaluator)
            run = partial(evaluator.race, precision=precision)
            race = study.race(base, archs, gains, run, len(steps))
            forwards.add(base, archs, race)
            return [None if finish.dropped else finish.accuracy for finish in race]

        def evaluate(new: Sequence[Arch]) -> Iterator[Done]:
            return evaluator.evaluate([(base, group) for group in split(space, base, new, evaluator.count)], precision)

        forwards.add(base, archs)
        return study.accuracies(archs, evaluate, len(steps))

    longest = sum(len(c.options) - 1 for c in space.choices)
    with tqdm(total=longest, desc=f"slimming {space.name}, {precision}", unit="step") as bar:
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
    config: Config,
    precision: Precision,
    costs: Costs,
    evaluator: LocalEvaluator | RayEvaluator,
    study: Study,
    start: Sequence[Arch],
) -> None:
    assert config.strategy is not None and config.budget is not None
    budget, batches = config.budget, 0
    with tqdm(total=budget, desc=f"{config.strategy} search of {costs.space.name}, {precision}", unit="arch") as bar:

        def each(archs: Sequence[Arch]) -> Iterator[Done]:
            for done in evaluator.evaluate([(arch, (arch,)) for arch in archs], precision):
                yield done
                bar.update()

        def evaluate(archs: Sequence[Arch]) -> list[float]:
            nonlocal batches
            accuracies = study.accuracies(archs, each, batches)
            bar.update(len(study.evaluations) - bar.n)  # those that were known
            batches += 1
            return accuracies

        explore(config.strategy, costs, evaluate, budget, config.seed, start, _at_once(config))
    evaluated = len(study.evaluations)  # not what the bar says: TQDM_DISABLE keeps it at 0
    if not evaluated:
        raise UserError(f"no network within the limits was found; relax {', '.join(costs.objective.limits)}")
    if evaluated < budget:
        print(f"the space has no more than {evaluated} archs within the limits, or they are hard to find")


def _at_once(config: Config) -> int:
    """Archs that the strategy asks for before it is told of any, where that changes what it finds: else 1."""
    return max(1, config.ray_workers) if config.strategy in SEQUENTIAL else 1


def _check_flags(config: Config, space: SearchSpace) -> None:
    config.check_workers()
    if "int8" in config.precision and not classifies(space.name):
        figure = figure_name(space.name)
        raise UserError(f"--precision int8 is for networks that classify; leave it out to search by {figure}")
    is_slimming = config.strategy in (None, "slimming")
    if config.strategy == "slimming":
        check_idle(config, ("seed",), "strategies with randomness, slimming has none")
    if config.exact and not is_slimming:
        raise UserError(f"--exact is for --strategy slimming, {config.strategy} has no races; leave it out")
    if config.strategy == "slimming" and config.ray_workers and races(config, space):
        raise UserError(
            f"--ray-workers is {config.ray_workers}, but the actions of a race wait for one another; add --exact"
        )
    known = dict.fromkeys(choice.field for choice in space.choices)
    if config.only and not is_slimming:
        raise UserError(f"--only is for --strategy slimming, not {config.strategy}; leave it out")
    if unknown := [name for name in config.only if name not in known]:
        raise UserError(f"--only {' '.join(unknown)}: {space.name} has no such choice; choose from {', '.join(known)}")


class _Begun(TypedDict):
    """Of a search's `config.json`, beside its flags.

    Args:
        seed_archs: that it began with; what the search that they are of finds later is nothing to this one.
    """

    seed_search: NotRequired[str | None]
    seed_archs: NotRequired[list[Json]]


def _start(config: Config, run_folder: Path, folder: Path, space: SearchSpace) -> list[Arch]:
    """The archs that `--seed-search` names. UserError if there are none, or if the strategy cannot use them."""
    if config.seed_search is None:
        return []
    if config.strategy != "predictor":
        raise UserError(f"--seed-search is for --strategy predictor, not {config.strategy}; leave it out")
    runs.check_name("--seed-search", config.seed_search)
    begun: _Begun = runs.begun_with(_Begun, folder) if config.resume else {}
    if begun.get("seed_search") == config.seed_search and (archs := begun.get("seed_archs")):
        return [space.from_json(arch) for arch in archs]
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
        "budget": config.budget,
        "objective": costs.objective.to_json(),
        "min_accuracy": config.min_accuracy,
    }


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
