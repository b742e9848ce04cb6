"""Trains a network of a kind, tests it, writes its files and a page: all in the folder of its stage in a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas import runs
from nas.dense.config import FREE, DenseConfig
from nas.dense.kind import PAGE, Kind, load_trained
from nas.dense.result import DenseResult
from nas.dense.start import Start, begun_start, find_start, searched_in
from nas.dense.task import DenseTask
from nas.distributed import collectives, process
from nas.runs.checkpoint import save_tensors
from nas.runs.folders import WEIGHTS
from nas.runs.results import lasted
from nas.scenes import SceneData
from nas.training.progress import CHECKPOINT
from nas.training.recipe import check_alike, check_used
from nas.training.trainer import Backward, Trainer
from search_spaces import UserError
from search_spaces.command import amend, fill, given
from search_spaces.command.files import slug, write_json
from search_spaces.dense.space import HeadedSpace


def configure(kind: Kind[Any, Any], config: Any) -> Any:
    """The config; what was not given is as the run was begun with, or what suits the images."""
    if config.resume:
        folder = run_of(kind, config)
        return amend(fill(config, runs.begun(folder / kind.stage, kind.config)), run=str(folder))
    searched = as_searched(kind, config)
    config = fill(config, replace(config, **{**kind.recipe(searched.get("data", config.data)), **searched}))
    check_used(config)
    return config


def as_searched(kind: Kind[Any, Any], config: Any) -> dict[str, Any]:
    """The images and their size of the run in which --backbone was searched with its head, if it was, as settings.

    Raises:
        UserError: it was for another task; flags that say something else.
    """
    folder = searched_in(config.backbone)
    if folder is None:
        return {}
    info = runs.load_run_info(folder)
    if (subject := kind.runs.subject) != info.subject:
        raise UserError(f"--backbone {config.backbone} was searched for {info.subject}, not for {subject}")
    before = {**vars(info.data), "image_size": info.image_size}
    for name in sorted(({*before} - {*kind.may_move}) & given(config)):
        if getattr(config, name) != before[name]:
            spelled = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{spelled} was {before[name]} when {folder} was begun; leave it out, or give another --backbone"
            )
    return before


def run_of(kind: Kind[Any, Any], config: Any) -> Path:
    """The run's folder: the one to go on with on `resume`, else a new one, the same for all processes."""
    if config.resume:
        return runs.find_run(config.run, f"{kind.stage}/config.json", f"python -m {kind.command}")
    parts = (kind.stage, Path(config.backbone).name, Path(config.data).name.removesuffix(".tar") or "data")
    name = config.run or slug(f"{'-'.join(parts)}-{datetime.now():%Y%m%d-%H%M%S}")  # noqa: DTZ005
    return runs.run_folder(collectives.gather(name)[0])


def train(kind: Kind[Any, Any], config: Any) -> Path:
    """Trains the network, or goes on with it on `resume`, and returns the run's folder."""
    run_folder = run_of(kind, config)
    folder = run_folder / kind.stage
    if not config.resume:
        runs.check_new(folder, "--run")
    finished = (folder / "result.json").exists()
    facts: dict[str, Any] = {}
    data = kind.load(config)
    if config.resume and (finished or (folder / CHECKPOINT).exists()):
        start = begun_start(folder, config.image_size, len(data.classes))
    else:
        start = find_start(config.backbone, config.init, config.image_size, config)
        facts["weights_digest"] = start.digest
    to = start.normalization
    data = data.normalized(to.mean, to.std)
    facts |= {"data_digest": data.splits.digest, "space": start.space.name, "arch": start.space.to_json(start.arch)}
    if config.resume:
        _check_same(folder, config.data, data.splits.digest)
    may_change = (*kind.may_move, *(() if finished else ("epochs",)))
    changed = runs.reopen(folder, config, FREE, may_change, **facts) if config.resume else {}
    check_alike(config, data.splits.digest)
    if config.resume:
        begin = partial(runs.record, folder, changed)
    else:
        begin = partial(runs.begin, folder, config, **facts, normalization=asdict(to))
    if finished:
        begin()
        print(f"{folder} is trained")
    else:
        _fit(kind, config, folder, data, start, begin)
    if process.is_primary():
        network, result = load_trained(kind, folder)
        kind.show(config, folder, network, data, result)
        print(f"next: open {folder / PAGE}")
    return run_folder


def _check_same(folder: Path, data: str, digest: str) -> None:
    """UserError if the images, or what is on them, are others than when the training was begun."""
    if digest != runs.fact(folder, "data_digest", str):
        raise UserError(
            f"{data} is not as it was when {folder} was begun: it has other images, or others of what is on them; "
            "restore it, say where it is now, or train a new run"
        )


def fresh(kind: Kind[Any, Any], config: DenseConfig, start: Start, num_classes: int) -> nn.Module:
    """The network to train: a fresh head, drawn by the seed, on the weights that it starts from, or all as searched."""
    torch.manual_seed(config.seed)
    network: Any = kind.made(start.space, start.arch, num_classes)
    if start.state is not None:
        (network.load_state_dict if isinstance(start.space, HeadedSpace) else network.backbone.load)(start.state)
    return network


def make_trainer(
    kind: Kind[Any, Any], config: DenseConfig, folder: Path, data: SceneData[Any], network: nn.Module
) -> Trainer:
    def step(images: Tensor, target: Any, _: int, criterion: Any, backward: Backward) -> Tensor:
        loss: Tensor = criterion(network(images), target)
        backward(loss)
        return loss.detach()

    def evaluate(average: nn.Module) -> dict[str, float]:
        return {kind.metric: _figures(kind, trainer, average, data.search)[kind.metric]}

    loss: Any = network.loss
    trainer = Trainer(network, DenseTask(kind, data, config, loss), config, folder, step, evaluate)
    return trainer


def _figures(kind: Kind[Any, Any], trainer: Trainer, network: nn.Module, scenes: Any) -> dict[str, Any]:
    config = trainer.config
    return kind.figures(network.eval(), scenes, trainer.task.image_size, trainer.device, config.num_workers)


def _fit(
    kind: Kind[Any, Any],
    config: DenseConfig,
    folder: Path,
    data: SceneData[Any],
    start: Start,
    begin: Callable[[], None],
) -> None:
    """Trains the network and tests its average; writes weights and `result.json`."""
    network = fresh(kind, config, start, len(data.classes))
    print(f"{start.space.name}: {kind.told(network)}, {num_parameters(network) / 1e6:.2f} M parameters")
    trainer = make_trainer(kind, config, folder, data, network)
    if config.resume:
        trainer.resume()
    begin()
    trainer.fit(f"{kind.stage} {start.space.name}")
    average = trainer.ema.module
    search, test = (_figures(kind, trainer, average, scenes) for scenes in (data.search, data.test))
    if not process.is_primary():
        return
    result: DenseResult = {
        "command": runs.command_of(folder),
        "space": start.space.name,
        "arch": start.space.to_json(start.arch),
        "image_size": config.image_size,
        "classes": list(data.classes),
        "mean": list(start.normalization.mean),
        "std": list(start.normalization.std),
        **trainer.ending,
        "num_images": {"train": data.splits.train, "search": data.splits.search, "test": data.splits.test},
        "num_params": num_parameters(average),
        "search": search,
        "test": test,
        "files": {},
    }
    save_tensors(folder / WEIGHTS, average.state_dict(), {"space": start.space.name})
    write_json(folder / "result.json", result)
    print(f"{kind.said(test)} of {len(data.test):,} test images after {lasted(result)}; wrote {folder}")


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
