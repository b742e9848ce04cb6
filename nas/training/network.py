"""Trains one network of a space in a folder of its own, whatever its weights are to begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas import runs
from nas.data import Data, Images
from nas.distributed import process
from nas.distributed.device import pick_device
from nas.evaluation.accuracy import accuracy
from nas.evaluation.intervals import interval
from nas.runs.checkpoint import save_tensors
from nas.runs.folders import WEIGHTS
from nas.training.drop_path import drop_path_rate
from nas.training.recipe import TrainConfig
from nas.training.task import Classification, Criterion
from nas.training.teacher import Teacher, use_both_classifiers
from nas.training.trainer import Backward, Trainer
from search_spaces import Arch, SearchSpace, macs, num_params
from search_spaces.command.files import write_json

Json = dict[str, Any]
Report = Callable[[float, float], None]  # epoch and accuracy on the search split, a fraction


def train_network(
    config: TrainConfig,
    folder: Path,
    space: SearchSpace,
    arch: Arch,
    data: Data,
    start: Callable[[nn.Module], None],
    begin: Callable[[], None] | None = None,
    *,
    facts: Json,
    resume: bool = False,
    teacher: Teacher | None = None,
    report: Report | None = None,
    after: Sequence[float] = (),
) -> Json:
    """Trains and tests the network, and returns what its `result.json` says; goes on with it on `resume`.

    Args:
        start: puts the weights to begin with into the network, which has fresh ones; not where a checkpoint has them.
        begin: is called before the first step, when it is certain that the network can be trained.
        facts: of the result, beside those that all have.
        report: is told whenever the network on its way has been evaluated.
        after: as `Trainer.after` is.
    """
    trainer = make_trainer(config, folder, space.image_size, data, fresh(config, space, arch), teacher, report)
    if not (resume and trainer.resume()):
        start(trainer.model)
        trainer.ema.module.load_state_dict(trainer.model.state_dict())
        trainer.start_accuracy = _accuracy(trainer, data.test)
    if config.drop_path is None:
        size = f"{macs(space, arch) / 1e9:.2f} G MACs"
        rate = drop_path_rate(config, space, arch)
        print(f"{folder.name}: drop path {rate:.3g}, as published for {size}; --drop-path sets another")
    if begin is not None:
        begin()
    trainer.after = after
    trainer.fit(f"{space.name} {folder.name}")
    facts = {"drop_path": drop_path_rate(config, space, arch), **facts}
    return _finish(trainer, space, arch, data.test, facts)


def _finish(trainer: Trainer, space: SearchSpace, arch: Arch, images: Images, facts: Json) -> Json:
    """Tests the averaged network, saves it and writes `result.json`."""
    folder = trainer.folder
    result = {
        "command": runs.command_of(folder),
        "name": folder.name,
        "arch": space.to_json(arch),
        **trainer.ending,
        **_tested("start_test_accuracy", trainer.start_accuracy, len(images)),
        **_tested("test_accuracy", _accuracy(trainer, images), len(images)),
        "num_params": num_params(space, arch),
        "macs": macs(space, arch),
        **facts,
    }
    if process.is_primary():
        save_tensors(folder / WEIGHTS, trainer.ema.module.state_dict(), {"space": space.name})
        write_json(folder / "result.json", result)
    return result


def _tested(name: str, found: float | None, num_images: int) -> Json:
    """An accuracy and its interval."""
    return {name: found} if found is None else {name: found, f"{name}_interval": interval(found, num_images)}


def _accuracy(trainer: Trainer, images: Images) -> float:
    """Of the averaged network."""
    network, workers = trainer.ema.module.eval(), trainer.config.num_workers
    return accuracy(network, images, trainer.task.image_size, trainer.device, workers)


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

    def evaluate(_: nn.Module) -> dict[str, float]:
        if not len(data.search):  # all are trained on
            return {}
        found = _accuracy(trainer, data.search)
        if report is not None:
            report(trainer.step / trainer.steps_per_epoch, found)
        return {"accuracy": found}

    task = Classification(data, config, image_size, pick_device(config.device))
    trainer = Trainer(model, task, config, folder, step, evaluate)
    return trainer
