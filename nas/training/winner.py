"""Trains a winner of a search as an ordinary network, in the folder `retrain/<name>/` of its run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from nas import runs
from nas.data import Data
from nas.distributed.device import pick_device
from nas.distributed.ray import RayConfig
from nas.evaluation.intervals import with_interval
from nas.networks.inherit import calibration_batches, default_calibration, inherited, load_supernet
from nas.networks.start import untrained_supernet
from nas.objective.precisions import precision_of
from nas.runs.results import REMEDY, STARTS, Stopped, TrainedResult, lasted
from nas.training.network import Report, train_network
from nas.training.recipe import FREE_ON_RESUME, TrainConfig, check_alike
from nas.training.teacher import TeacherConfig, load_teacher, teacher_result
from search_spaces import Arch
from search_spaces.command import flag
from search_spaces.command.typed import load_typed

ALL_DATA = "all-data"


@dataclass(frozen=True)
class Config(RayConfig, TeacherConfig, TrainConfig):
    init: Literal["inherit", "pretrained-slice", "scratch"] = flag(
        "inherit",
        "weights to start from: the supernet's, those of the network that the supernet started from, or fresh ones",
    )
    run: str | None = flag(None, "run of the search (default: the newest)")
    search: str | None = flag(None, "search folder of the run (default: the newest)")
    winners: tuple[str, ...] = flag((), "winners to train (default: all of the search)")
    archs: str | None = flag(
        None, "train these instead: JSON, a search's result or a list of networks, each with its name and arch"
    )
    scheduler: Literal["asha", "none"] | None = flag(
        None, "with --ray-workers: whether the less accurate are stopped (default: asha for --archs, none for winners)"
    )
    all_data: bool = flag(
        False, f"train a last time, on everything but the test split (default of --suffix then: {ALL_DATA})"
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
    after: Sequence[float] = (),
) -> Path:
    """Trains the winner in `retrain/<name>/` of the run, or goes on with it on `resume`, and returns that folder.

    Args:
        report: is told whenever the network on its way has been evaluated.
        begin: is called before the first step, when it is certain that the network can be trained.
        after: as `Trainer.after` is.
    """
    check_alike(config, data.splits.digest)
    folder = run_folder / "retrain" / name
    space = runs.load_classes_info(run_folder).search_space()
    arch = space.from_json(winner["arch"])
    teacher = load_teacher(config, data.classes, data.train.normalization, pick_device(config.device))
    taught = {"teacher": teacher_result(teacher, data, space.image_size, config.num_workers)} if teacher else {}
    if config.all_data:
        data = data.all_but_test()

    def start(network: nn.Module) -> None:
        if config.init != "scratch":
            network.load_state_dict(_sliced(config, run_folder, arch, data).state_dict())

    found = train_network(
        config,
        folder,
        space,
        arch,
        data,
        start,
        begin,
        facts={"init": config.init, "all_data": config.all_data, "precision": precision_of(winner), **taught},
        resume=config.resume,
        teacher=teacher,
        report=report,
        after=after,
    )
    print(
        f"{name}: test accuracy {100 * found['start_test_accuracy']:.2f} % {STARTS[config.init]}, "
        f"{with_interval(found['test_accuracy'], len(data.test))} after {lasted(found)}"
        f"{' on all images but the test split' if config.all_data else ''}; wrote {folder}"
    )
    return folder


def _sliced(config: Config, run_folder: Path, arch: Arch, data: Data) -> nn.Module:
    """The part of the run's supernet, trained or as its training began."""
    device, workers = pick_device(config.device), config.num_workers
    trained = config.init == "inherit"
    supernet = (
        load_supernet(run_folder, device) if trained else untrained_supernet(run_folder, data.train, device, workers)
    )
    count, size = default_calibration(supernet), supernet.space.image_size
    return inherited(supernet, arch, calibration_batches(data.train, size, count, device, workers))
