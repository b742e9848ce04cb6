"""Trains a winner of a search as an ordinary network, in the folder `retrain/<name>/` of its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas import runs
from nas.data import Data
from nas.distributed import process
from nas.distributed.device import pick_device
from nas.distributed.ray import RayConfig
from nas.evaluation.accuracy import accuracy
from nas.networks.inherit import calibration_batches, default_calibration, inherited, load_supernet
from nas.runs.checkpoint import save_tensors
from nas.runs.results import REMEDY, Stopped, TrainedResult
from nas.training.drop_path import drop_path_rate
from nas.training.recipe import FREE_ON_RESUME, TrainConfig
from nas.training.teacher import Teacher, TeacherConfig, load_teacher, teacher_result, use_both_classifiers
from nas.training.trainer import Backward, Criterion, Trainer, check_alike
from search_spaces import Arch, SearchSpace, macs, num_params
from search_spaces.command import flag
from search_spaces.command.files import write_json
from search_spaces.command.typed import load_typed


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
        None, "with --ray-workers: whether the less accurate are stopped (default: asha for --archs, none for winners)"
    )
    suffix: str | None = flag(None, "train the winners once more, as <winner>-<suffix>")
    resume: bool = flag(False, "go on with the newest command that was interrupted: its networks, by its settings")


DIGITS_EPOCHS = 8
FREE = (*FREE_ON_RESUME, "ray_workers", "ray_address", "run", "search", "winners", "archs", "scheduler", "resume")
Report = Callable[[float, float], None]  # epoch and accuracy on the search split, a fraction


@dataclass(frozen=True)
class Job:
    """A network to train, in its folder.

    Args:
        changed: settings of one that is resumed that are to be recorded.
    """

    config: Config
    folder: Path
    winner: dict[str, Any]
    changed: dict[str, Any] = field(default_factory=dict)

    @property
    def is_begun(self) -> bool:
        return (self.folder / "config.json").exists()

    @property
    def test_accuracy(self) -> float | None:
        """None until it is trained."""
        path = self.folder / "result.json"
        return load_typed(TrainedResult, path, REMEDY)["test_accuracy"] if path.exists() else None

    @property
    def stopped(self) -> Stopped | None:
        """At which epoch, and with what accuracy on the search split, ASHA stopped it."""
        path = self.folder / "stopped.json"
        return load_typed(Stopped, path, REMEDY) if path.exists() else None

    @property
    def is_over(self) -> bool:
        return self.test_accuracy is not None or self.stopped is not None


def train_winner(
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
    taught = {"teacher": teacher_result(teacher, data, space.image_size, config.num_workers)} if teacher else {}
    origin = _inherited(run_folder, arch, data, device, config.num_workers)
    inherited_accuracy = accuracy(origin, data.test, space.image_size, device, config.num_workers)
    drop_path = drop_path_rate(config, space, arch)
    if config.drop_path is None:
        size = f"{macs(space, arch) / 1e9:.2f} G MACs"
        print(f"{name}: drop path {drop_path:.3g}, as published for {size}; --drop-path sets another")
    model = fresh(config, space, arch)
    if config.init == "inherit":
        model.load_state_dict(origin.state_dict())

    trainer = make_trainer(config, folder, space.image_size, data, model, teacher, report)
    if config.resume:
        trainer.resume()
    if begin is not None:
        begin()
    trainer.fit(f"retrain {name}")
    best = trainer.ema.module.eval()
    test_accuracy = accuracy(best, data.test, space.image_size, device, config.num_workers)
    if not process.is_primary():
        return folder
    save_tensors(folder / "model.safetensors", best.state_dict(), {"space": space.name})
    result: dict[str, Any] = {
        "command": runs.command_of(folder),
        "name": name,
        "arch": space.to_json(arch),
        "init": config.init,
        "epochs": config.epochs,
        "planned_epochs": trainer.planned_epochs,
        "drop_path": drop_path,
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


def fresh(config: TrainConfig, space: SearchSpace, arch: Arch) -> nn.Module:
    """The network to train, its weights drawn by the seed: whatever was drawn before, as by reading images."""
    torch.manual_seed(config.seed)
    return space.build(arch, drop_path_rate(config, space, arch))


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
    if teacher is not None:
        use_both_classifiers(model)

    def step(images: Tensor, target: Tensor, _: int, criterion: Criterion, backward: Backward) -> Tensor:
        if teacher is not None:
            criterion = teacher.distil(criterion, images)
        loss = criterion(model(images), target)
        backward(loss)
        return loss.detach()

    def evaluate(ema: nn.Module) -> dict[str, float]:
        found = accuracy(ema.eval(), data.search, image_size, trainer.device, config.num_workers)
        if report is not None:
            report(trainer.step / trainer.steps_per_epoch, found)
        return {"accuracy": found}

    trainer = Trainer(model, data.train, config, folder, step, evaluate, image_size, len(data.classes))
    return trainer


def _inherited(run_folder: Path, arch: Arch, data: Data, device: torch.device, num_workers: int) -> nn.Module:
    supernet = load_supernet(run_folder, device)
    count = default_calibration(supernet)
    calibration = calibration_batches(data.train, supernet.space.image_size, count, device, num_workers)
    return inherited(supernet, arch, calibration)
