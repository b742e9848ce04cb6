"""Train the winners of a search as ordinary networks, by the recipe of the supplement's Table 1, and test them.

Bare: every winner of the newest search, starting from its inherited weights. As published, from scratch:
    python -m nas.retrain --init scratch --epochs 300

The defaults below are the published recipe; images under 128 px have the shorter one of nas.train_supernet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas import distributed, process, runs
from nas.checkpoint import save_tensors
from nas.data import Data
from nas.inherit import calibration_batches, default_calibration, inherited
from nas.recipe import FREE_ON_RESUME, TrainConfig, with_recipe
from nas.teacher import MAY_MOVE, Teacher, TeacherConfig, load_teacher, teacher_facts, teacher_result
from nas.train_supernet import load_supernet
from nas.training import Backward, Criterion, Trainer, accuracy, check_alike, pick_device
from search_spaces import Arch, UserError, macs, num_params
from search_spaces.command import flag, parse, run
from search_spaces.files import read_json, write_json


@dataclass(frozen=True)
class Config(TeacherConfig, TrainConfig):
    init: Literal["inherit", "scratch"] = flag("inherit", "start from the supernet's weights or from fresh ones")
    run: str | None = flag(None, "run of the search (default: the newest)")
    search: str | None = flag(None, "search folder of the run (default: the newest)")
    winners: tuple[str, ...] = flag((), "winners to train (default: all of the search)")
    suffix: str | None = flag(None, "train the winners once more, as <winner>-<suffix>")
    resume: bool = flag(False, "go on with winners begun, leave out those finished")


DIGITS_EPOCHS = 8
FREE = (*FREE_ON_RESUME, "run", "search", "winners", "resume")


def find_winners(config: Config) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The run's folder and the winners to train, by name.

    Raises:
        UserError: no search has picked winners, or none of that name.
    """
    pattern = f"{config.search or 'search*'}/result.json"
    run_folder = runs.find_run(config.run, pattern, "python -m nas.search")
    found = runs.newest(run_folder, pattern)
    assert found is not None
    winners = {winner["name"]: winner for winner in read_json(found)["winners"]}
    if not winners:
        raise UserError(f"{found.parent} picked no winner; go on with nas.search --resume and limits that can be met")
    if unknown := [name for name in config.winners if name not in winners]:
        raise UserError(f"no winner {', '.join(unknown)} in {found.parent}; choose from {', '.join(winners)}")
    return run_folder, {name: winners[name] for name in config.winners or winners}


def retrain(config: Config, run_folder: Path, name: str, winner: dict[str, Any], data: Data) -> Path:
    """Trains the winner in `retrain/<name>/` of the run, or goes on with it on `resume`, and returns that folder."""
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

    trainer = make_trainer(config, folder, space.image_size, data, model, teacher)
    if _begun(config, folder):
        trainer.resume()
    else:
        runs.begin(folder, config, arch=winner["arch"], **teacher_facts(config))
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
    config: TrainConfig, folder: Path, image_size: int, data: Data, model: nn.Module, teacher: Teacher | None = None
) -> Trainer:
    """Trains a network on its own, on labels and a teacher, with its search accuracy on the way."""

    def step(images: Tensor, target: Tensor, _: int, criterion: Criterion, backward: Backward) -> Tensor:
        if teacher is not None:
            criterion = teacher.distil(criterion, images)
        loss = criterion(model(images), target)
        backward(loss)
        return loss.detach()

    def evaluate(ema: nn.Module) -> dict[str, float]:
        return {"accuracy": accuracy(ema.eval(), data.search, image_size, trainer.device, config.loaders)}

    trainer = Trainer(model, data.train, config, folder, step, evaluate, image_size, len(data.classes))
    return trainer


def _inherited(run_folder: Path, arch: Arch, data: Data, device: torch.device, loaders: int) -> nn.Module:
    supernet = load_supernet(run_folder, device)
    count = default_calibration(supernet)
    calibration = calibration_batches(data.train, supernet.space.image_size, count, device, loaders)
    return inherited(supernet, arch, calibration)


def _begun(config: Config, folder: Path) -> bool:
    return config.resume and (folder / "config.json").exists()


def main(argv: Sequence[str] | None = None) -> None:
    with distributed.job():
        retrain_all(argv)


def retrain_all(argv: Sequence[str] | None) -> None:
    """Trains every winner that the flags name."""

    def parsed(defaults: Config) -> Config:
        return parse(Config, argv, "python -m nas.retrain", __doc__ or "", defaults)

    config = parsed(Config())
    runs.check_name("--suffix", config.suffix)
    run_folder, winners = find_winners(config)
    info = runs.load_run_info(run_folder)
    jobs = []
    for name, winner in winners.items():  # all are checked before the first is trained
        folder = run_folder / "retrain" / (f"{name}-{config.suffix}" if config.suffix else name)
        if _begun(config, folder):
            job = parsed(runs.begun(folder, Config))
            runs.reopen(folder, job, FREE, MAY_MOVE, arch=winner["arch"], **teacher_facts(job))
        else:
            job = parsed(with_recipe(config, info.image_size, info.data.data, DIGITS_EPOCHS))
            runs.check_new(folder, "--suffix")
        if (folder / "result.json").exists():
            print(f"{folder} is finished: nothing to train")
        else:
            jobs.append((job, folder.name, winner))
    data = runs.load_run_data(run_folder)
    for job, name, winner in jobs:
        retrain(job, run_folder, name, winner, data)


if __name__ == "__main__":
    run(main, "go on with --resume")
