"""Trains a winner of a search as an ordinary network, in the folder `retrain/<name>/` of its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nas import runs
from nas.data import Data
from nas.distributed.device import pick_device
from nas.distributed.ray import RayConfig
from nas.networks.inherit import calibration_batches, default_calibration, inherited, load_supernet
from nas.runs.results import REMEDY, STARTS, Stopped, TrainedResult
from nas.training.network import Report, train_network
from nas.training.recipe import FREE_ON_RESUME, TrainConfig
from nas.training.teacher import TeacherConfig, load_teacher, teacher_result
from nas.training.trainer import check_alike
from search_spaces import Arch
from search_spaces.command import flag
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

    def start(network: nn.Module) -> None:
        if config.init == "inherit":
            network.load_state_dict(_inherited(run_folder, arch, data, device, config.num_workers).state_dict())

    found = train_network(
        config,
        folder,
        space,
        arch,
        data,
        start,
        begin,
        facts={"init": config.init, **taught},
        resume=config.resume,
        teacher=teacher,
        report=report,
    )
    print(
        f"{name}: test accuracy {100 * found['start_test_accuracy']:.2f} % {STARTS[config.init]}, "
        f"{100 * found['test_accuracy']:.2f} % after {config.epochs} epochs; wrote {folder}"
    )
    return folder


def _inherited(run_folder: Path, arch: Arch, data: Data, device: torch.device, num_workers: int) -> nn.Module:
    supernet = load_supernet(run_folder, device)
    count = default_calibration(supernet)
    calibration = calibration_batches(data.train, supernet.space.image_size, count, device, num_workers)
    return inherited(supernet, arch, calibration)
