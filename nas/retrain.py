"""Train the winners of a search as ordinary networks, by the recipe of the supplement's Table 1, and test them.

Bare: every winner of the newest search, starting from its inherited weights. As published, from scratch:
    python -m nas.retrain --init scratch --epochs 300
Several at a time, the less accurate ones stopped early:
    python -m nas.retrain --archs candidates.json --workers 4

The defaults below are the published recipe; images under 128 px have the shorter one of nas.train_supernet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas import runs
from nas.data import Data
from nas.distributed import collectives, process
from nas.evaluation.workers import RayConfig
from nas.networks.inherit import calibration_batches, default_calibration, inherited
from nas.runs.checkpoint import save_tensors
from nas.train_supernet import load_supernet
from nas.training.parallel import Job, train_parallel
from nas.training.recipe import FREE_ON_RESUME, TrainConfig, with_recipe
from nas.training.teacher import MAY_MOVE, Teacher, TeacherConfig, load_teacher, teacher_facts, teacher_result
from nas.training.trainer import Backward, Criterion, Trainer, accuracy, check_alike, pick_device
from search_spaces import Arch, UserError, macs, num_params
from search_spaces.command import flag, parse, run
from search_spaces.command.files import read_json, write_json


@dataclass(frozen=True)
class Config(RayConfig, TeacherConfig, TrainConfig):
    init: Literal["inherit", "scratch"] = flag("inherit", "start from the supernet's weights or from fresh ones")
    run: str | None = flag(None, "run of the search (default: the newest)")
    search: str | None = flag(None, "search folder of the run (default: the newest)")
    winners: tuple[str, ...] = flag((), "winners to train (default: all of the search)")
    archs: str | None = flag(
        None, "train these instead: JSON, a search's result or a list of networks, each with its name and arch"
    )
    scheduler: Literal["asha", "none"] | None = flag(
        None, "with --workers: whether the less accurate are stopped (default: asha for --archs, none for winners)"
    )
    suffix: str | None = flag(None, "train the winners once more, as <winner>-<suffix>")
    resume: bool = flag(False, "go on with the newest command that was interrupted: its networks, by its settings")


DIGITS_EPOCHS = 8
FREE = (*FREE_ON_RESUME, "workers", "ray_address", "run", "search", "winners", "archs", "scheduler", "resume")
Report = Callable[[float, float], None]  # epoch and accuracy on the search split, a fraction


def find_winners(config: Config) -> tuple[Path, str | None, dict[str, dict[str, Any]]]:
    """The run's folder, the name of its search (None with `archs`) and the winners to train, by name.

    Raises:
        UserError: no search has picked winners, or none of that name; no networks in the file of `archs`.
    """
    if config.archs:
        return _read_archs(config, Path(config.archs))
    pattern = f"{config.search or 'search*'}/result.json"
    run_folder = runs.find_run(config.run, pattern, "python -m nas.search")
    found = runs.newest(run_folder, pattern)
    assert found is not None
    winners = {winner["name"]: winner for winner in read_json(found)["winners"]}
    if not winners:
        raise UserError(f"{found.parent} picked no winner; go on with nas.search --resume and limits that can be met")
    return run_folder, found.parent.name, _named(config.winners, winners, found.parent)


def _named(names: Sequence[str], winners: dict[str, dict[str, Any]], where: Path) -> dict[str, dict[str, Any]]:
    """The winners of these names, or all."""
    if unknown := [name for name in names if name not in winners]:
        raise UserError(f"no winner {', '.join(unknown)} in {where}; choose from {', '.join(winners)}")
    return {name: winners[name] for name in names or winners}


def _read_archs(config: Config, path: Path) -> tuple[Path, None, dict[str, dict[str, Any]]]:
    """A search's result names its run, unless --run does."""
    if config.search:
        raise UserError(f"--archs {path} and --search {config.search} are two sources of networks; give one of them")
    of_run = path.parent.parent if path.name == "result.json" and (path.parent.parent / "run.json").exists() else None
    run = config.run or (str(of_run.resolve()) if of_run else None)
    run_folder = runs.find_run(run, "supernet/result.json", "python -m nas.train_supernet")
    space, found = runs.load_run_info(run_folder).search_space(), read_json(path)
    networks = found.get("winners") if isinstance(found, dict) else found
    try:
        pairs = [(str(network["name"]), network) for network in networks or ()]
        archs = [network["arch"] for _, network in pairs]
    except (KeyError, TypeError):
        pairs, archs = [], []
    if not pairs:
        raise UserError(f'{path} names no networks; give a search\'s result.json, or [{{"name": …, "arch": …}}, …]')
    for (name, _), arch in zip(pairs, archs, strict=True):
        runs.check_name(f"a name in {path}", name)
        space.from_json(arch)
    if len(dict(pairs)) < len(pairs):
        raise UserError(f"two networks in {path} have the same name; give each its own")
    return run_folder, None, _named(config.winners, dict(pairs), path)


def retrain(
    config: Config,
    run_folder: Path,
    name: str,
    winner: dict[str, Any],
    data: Data,
    report: Report | None = None,
    begin: Callable[[], None] | None = None,
) -> Path:
    """Trains the winner in `retrain/<name>/` of the run, or goes on with it on `resume`, and returns that folder.

    Args:
        report: is told whenever the network on its way has been evaluated.
        begin: is called before the first step, when it is certain that the network can be trained.
    """
    check_alike(config, data)
    folder = run_folder / "retrain" / name
    space = runs.load_run_info(run_folder).search_space()
    arch = space.from_json(winner["arch"])
    device = pick_device(config.device)
    teacher = load_teacher(config, data.classes, device)
    taught = {"teacher": teacher_result(teacher, data.search, space.image_size, config.loaders)} if teacher else {}
    origin = _inherited(run_folder, arch, data, device, config.loaders)
    inherited_accuracy = accuracy(origin, data.test, space.image_size, device, config.loaders)
    torch.manual_seed(config.seed)  # here: reading images draws from the global generator
    model = space.build(arch, config.drop_path)
    if config.init == "inherit":
        model.load_state_dict(origin.state_dict())

    trainer = make_trainer(config, folder, space.image_size, data, model, teacher, report)
    if begin is not None:
        begin()
    if config.resume:
        trainer.resume()
    trainer.fit(f"retrain {name}")
    best = trainer.ema.module.eval()
    test_accuracy = accuracy(best, data.test, space.image_size, device, config.loaders)
    if not process.is_writer():
        return folder
    save_tensors(folder / "model.safetensors", best.state_dict(), {"space": space.name})
    result: dict[str, Any] = {
        "command": runs.command_of(folder),
        "name": name,
        "arch": space.to_json(arch),
        "init": config.init,
        "epochs": config.epochs,
        "minutes": trainer.seconds / 60,
        "inherited_test_accuracy": inherited_accuracy,
        "test_accuracy": test_accuracy,
        "num_params": num_params(space, arch),
        "macs": macs(space, arch),
        **taught,
    }
    write_json(folder / "result.json", result)
    print(
        f"{name}: test accuracy {100 * inherited_accuracy:.2f} % inherited, "
        f"{100 * result['test_accuracy']:.2f} % after {config.epochs} epochs; wrote {folder}"
    )
    return folder


def make_trainer(
    config: TrainConfig,
    folder: Path,
    image_size: int,
    data: Data,
    model: nn.Module,
    teacher: Teacher | None = None,
    report: Report | None = None,
) -> Trainer:
    """Trains a network on its own, on labels and a teacher, with its search accuracy on the way."""

    def step(images: Tensor, target: Tensor, _: int, criterion: Criterion, backward: Backward) -> Tensor:
        if teacher is not None:
            criterion = teacher.distil(criterion, images)
        loss = criterion(model(images), target)
        backward(loss)
        return loss.detach()

    def evaluate(ema: nn.Module) -> dict[str, float]:
        found = accuracy(ema.eval(), data.search, image_size, trainer.device, config.loaders)
        if report is not None:
            report(trainer.step / trainer.steps_per_epoch, found)
        return {"accuracy": found}

    trainer = Trainer(model, data.train, config, folder, step, evaluate, image_size, len(data.classes))
    return trainer


def _inherited(run_folder: Path, arch: Arch, data: Data, device: torch.device, loaders: int) -> nn.Module:
    supernet = load_supernet(run_folder, device)
    count = default_calibration(supernet)
    calibration = calibration_batches(data.train, supernet.space.image_size, count, device, loaders)
    return inherited(supernet, arch, calibration)


def _to_go_on_with(given: Config) -> Config:
    """The flags of the newest command that had those given, rather of one that has something left to train.

    Raises:
        UserError: there is none.
    """
    pattern = "retrain/*/config.json"
    run_folder = runs.find_run(given.run, pattern, "python -m nas.retrain")

    def order(path: Path) -> tuple[bool, int]:
        over = any((path.parent / name).exists() for name in ("result.json", "stopped.json"))
        return over, -path.stat().st_mtime_ns

    for path in sorted(run_folder.glob(pattern), key=order):
        begun = runs.begun(path.parent, Config)
        same = all(getattr(given, flag) in (None, getattr(begun, flag)) for flag in ("search", "archs", "suffix"))
        named = {_folder_name(winner, begun.suffix) for winner in given.winners}
        if same and (not named or path.parent.name in named):
            return replace(begun, run=given.run or str(run_folder))
    raise UserError(
        f"nothing in {run_folder}/retrain was begun with these --search, --archs, --suffix or --winners; "
        "leave them out, or --resume"
    )


def _folder_name(winner: str, suffix: str | None) -> str:
    return f"{winner}-{suffix}" if suffix else winner


def _begin(jobs: Sequence[Job]) -> None:
    """Begins all at once: --resume goes on with the same networks and settings, whichever was being trained."""
    for job in jobs:
        if not job.is_begun:
            runs.begin(job.folder, job.config, arch=job.winner["arch"], **teacher_facts(job.config))


def main(argv: Sequence[str] | None = None) -> None:
    with collectives.job():
        retrain_all(argv)


def retrain_all(argv: Sequence[str] | None) -> None:
    """Trains every winner that the flags name."""

    def parsed(defaults: Config) -> Config:
        return parse(Config, argv, "python -m nas.retrain", __doc__ or "", defaults)

    config = parsed(Config())
    runs.check_name("--suffix", config.suffix)
    if config.resume:
        config = parsed(_to_go_on_with(config))
    config.check_workers()
    if config.scheduler and not (config.workers or config.resume):
        raise UserError(f"--scheduler {config.scheduler} is for --workers; give both or none")
    run_folder, search, winners = find_winners(config)
    info = runs.load_run_info(run_folder)
    new = config if config.resume else parsed(with_recipe(config, info.image_size, info.data.data, DIGITS_EPOCHS))
    new = replace(new, search=search, winners=tuple(winners))  # a later search changes nothing on --resume
    jobs = list[Job]()
    for name, winner in winners.items():  # all are checked before the first is trained
        folder = run_folder / "retrain" / _folder_name(name, config.suffix)
        job = Job(new, folder, winner)
        if config.resume and job.is_begun:
            job = replace(job, config=parsed(runs.begun(folder, Config)))
            runs.reopen(folder, job.config, FREE, MAY_MOVE, arch=winner["arch"], **teacher_facts(job.config))
        else:
            runs.check_new(folder, "--suffix, or name others with --winners")
        jobs.append(job)
        if job.test_accuracy is not None:
            print(f"{folder} is finished: nothing to train")
    if config.workers:
        _train_parallel(config, run_folder, jobs)
        return
    data = runs.load_run_data(run_folder)
    for each in jobs:
        if each.test_accuracy is None:
            retrain(each.config, run_folder, each.folder.name, each.winner, data, begin=partial(_begin, jobs))


def _train_parallel(config: Config, run_folder: Path, jobs: Sequence[Job]) -> None:
    if process.world_size() > 1:
        raise UserError("--workers trains several networks, torchrun one in several processes; use one of them")
    if len({job.config.epochs for job in jobs}) > 1:
        raise UserError("the networks were begun with different --epochs; name those of one number with --winners")
    _begin(jobs)
    train_parallel(config, run_folder, jobs, config.scheduler or ("asha" if config.archs else "none"))


if __name__ == "__main__":
    run(main, "go on with --resume")
