"""Trains the supernet of networks with a head for boxes or masks, in the folder `supernet/` of a new run."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nas import runs
from nas.data.splits import Normalization
from nas.dense.config import DenseConfig
from nas.dense.kind import Kind
from nas.dense.task import DenseTask
from nas.detection.config import BoxTraining
from nas.distributed import process
from nas.distributed.device import pick_device
from nas.networks.inherit import load_supernet
from nas.networks.start import load_start, order_by_magnitude, take_over
from nas.networks.weights import CheckpointImages, init_normalization
from nas.scenes import SceneData
from nas.scenes.embedded import EMBEDDED
from nas.segmentation.config import MaskTraining
from nas.supernets.elastic import (
    ElasticConfig,
    check_elastic,
    check_sampling,
    ended,
    record,
    result_of,
    resume,
    run_of,
    save_weights,
    step_archs,
    step_of,
    watched,
)
from nas.supernets.kinds import KINDS
from nas.training.recipe import check_alike, check_used
from nas.training.trainer import Trainer
from search_spaces import Arch, SearchSpace, UserError, arch_label, get_space
from search_spaces.command import amend, check_idle, fill, flag
from search_spaces.command.files import write_json
from search_spaces.dense.space import DetectionSpace, HeadedSpace, SegmentationSpace
from supernet import Supernet


@dataclass(frozen=True)
class DenseSupernetConfig(ElasticConfig, CheckpointImages):
    space: str = flag("mobileone-nano", "search space of the networks below the head; `python -m search_spaces`")
    init: str | None = flag(
        None,
        "weights to start from: folder of a run with a supernet of classifiers of the space; a file of a timm network "
        "of it, a folder of ours that has one, or pretrained (default: fresh weights)",
    )
    epochs: int = flag(200, "passes over the training split", minimum=1)


@dataclass(frozen=True)
class DetectConfig(DenseSupernetConfig, BoxTraining):
    task: Literal["detect"] = flag("detect", "boxes, by SSDLite")

    head = DetectionSpace.head


@dataclass(frozen=True)
class SegmentConfig(DenseSupernetConfig, MaskTraining):
    task: Literal["segment"] = flag("segment", "masks, by DeepLabv3")
    batch_size: int = flag(32, "images of a step, of all processes together: two at least are normalized", minimum=2)

    head = SegmentationSpace.head


Config = DetectConfig | SegmentConfig
SHARING: dict[str, Any] = {"sampling": "balanced", "norm": "shared"}
EMBEDDED_SHARING: dict[str, Any] = {"sampling": "uniform", "num_random": 2, "norm": "shared"}  # half the time


def configure(config: Config) -> Config:
    """The config; what was not given is as the run was begun with, or what suits the images."""
    if config.resume:
        folder = run_of(config)
        return amend(fill(config, runs.begun(folder / "supernet", type(config))), run=str(folder))
    config = fill(config, _suited(config))
    base, _, head = config.space.partition("+")
    if head not in ("", config.head):
        raise UserError(f"--task {config.task} has the head {config.head}; give --space {base}")
    check_used(config)
    check_sampling(config)
    return amend(config, space=f"{base}+{config.head}")


def _suited(config: Config) -> Config:
    kind = KINDS[config.task]
    recipe = {"image_size": DenseConfig.image_size, **kind.recipe(config.data)}
    recipe |= EMBEDDED_SHARING if config.data == EMBEDDED else SHARING
    known = {field.name for field in fields(config)}
    return replace(config, **{name: value for name, value in recipe.items() if name in known})


def train_supernet(config: Config) -> Path:
    """Trains, evaluates on the search and test splits and returns the run's folder; goes on with it on `resume`."""
    check_elastic(config, config.epochs)
    kind, folder = KINDS[config.task], run_of(config)
    stage, changed = folder / "supernet", dict[str, Any]()
    data: Any
    if config.resume:
        data, changed = resume(config, folder, kind.may_move)
        if data is None:
            print(f"{folder} is finished: nothing to train")
            return folder
    else:
        runs.check_new(stage, "--run")
        data = kind.load(config)
    check_alike(config, data.splits.digest)
    space = get_space(config.space, config.image_size, len(data.classes))
    assert isinstance(space, HeadedSpace)
    if not config.resume:
        images = _normalization(config, space)
        data = data.normalized(images.mean, images.std)
    info = kind.runs.of(space, data, config.data_config())
    runs.check_run(folder, info)
    trainer = make_trainer(kind, config, stage, space, data)
    if not (config.resume and trainer.resume()) and config.init:
        _warm_start(config.init, folder, trainer)
    if config.resume:
        record(config, folder, changed)
    else:
        runs.begin_run(folder, info, stage, config)
    trainer.fit(f"supernet {space.name}")
    save_weights(stage, trainer, config.norm)
    _finish(kind, config, folder, trainer, data)
    return folder


def _normalization(config: Config, space: HeadedSpace) -> Normalization:
    """How the images of what it starts from were normalized."""
    if config.init is None or not _has_supernet(place := Path(config.init).expanduser()):
        return init_normalization(space.base, config.init, config)
    check_idle(config, ("mean", "std"), f"weights of others, {config.init} says its own")
    info = runs.load_run_info(place)
    return Normalization(info.mean, info.std)


def _has_supernet(place: Path) -> bool:
    return (place / "supernet" / "supernet.safetensors").exists()


def make_trainer(
    kind: Kind[Any, Any], config: Config, folder: Path, space: SearchSpace, data: SceneData[Any]
) -> Trainer:
    assert isinstance(space, HeadedSpace)
    torch.manual_seed(config.seed)
    supernet = Supernet(space, norm=config.norm, checkpoint_activations=config.checkpoint_activations)

    def evaluate(_: nn.Module) -> dict[str, float]:
        return {f"{name}_accuracy": value for name, value in _figures(kind, trainer, data.search).items()}

    meaning: Any = space.meaning().to(pick_device(config.device))
    task = DenseTask(kind, data, config, lambda state, target: meaning.loss(meaning.raw(state), target))
    steps = step_archs(config, space, task.steps_per_epoch)
    trainer = Trainer(supernet, task, config, folder, step_of(supernet, steps, None, lambda: trainer.parts), evaluate)
    return trainer


def _figures(kind: Kind[Any, Any], trainer: Trainer, scenes: Any) -> dict[str, float]:
    """What the watched networks reach on a split."""
    size, workers = trainer.task.image_size, trainer.config.num_workers
    found = (
        (name, kind.figures(network, scenes, size, trainer.device, workers))
        for name, network in watched(trainer).items()
    )
    return {name: figures[kind.metric] for name, figures in found}


def _warm_start(init: str, folder: Path, trainer: Trainer) -> None:
    """Puts the weights that --init names into the supernet and its average; heads stay fresh."""
    supernet: Any = trainer.model
    space: HeadedSpace = supernet.space
    place = Path(runs.follow(init, folder)).expanduser()
    if _has_supernet(place):
        _take_supernet(place, trainer)
        return
    arch, network, _ = load_start(space.base, str(place) if place.exists() else init)
    order_by_magnitude(space.base, network)
    _take_network(arch, network, trainer)
    print(f"{arch_label(space, space.with_head(arch))} starts with the weights of {init}", flush=True)


def _take_network(arch: Arch, network: nn.Module, trainer: Trainer) -> None:
    """Those of a network without a head."""
    supernet: Any = trainer.model
    whole: Any = supernet.space.build(own := supernet.space.with_head(arch))
    whole.backbone.load(network.state_dict())
    for store in (supernet, trainer.ema.module):
        take_over(store, own, whole)


@torch.no_grad()
def _take_supernet(place: Path, trainer: Trainer) -> None:
    """Those of a run's supernet of classifiers, by their names; where its norms are of each width and ours are not, or
    the other way round, those of its largest network."""
    supernet: Any = trainer.model
    space: HeadedSpace = supernet.space
    info = runs.load_run_info(place)
    if info.space != space.base.name:
        raise UserError(
            f"--init {place} has a supernet of {info.space}, not of {space.base.name}; give --space {info.space}"
        )
    begun = load_supernet(place, torch.device("cpu"))
    given = begun.state_dict()
    for store in (supernet, trainer.ema.module):
        own = store.state_dict()
        alike = [name for name, tensor in own.items() if name in given and given[name].shape == tensor.shape]
        for name in alike:
            own[name].copy_(given[name])
    norms = ""
    if begun.normalization != supernet.normalization:
        _take_network(space.base.largest, begun.extract(space.base.largest), trainer)
        norms = ", and with the norms of its largest network"
    print(f"starts with {len(alike)} of the {len(own)} tensors from the supernet of {place}{norms}", flush=True)


def _finish(kind: Kind[Any, Any], config: Config, folder: Path, trainer: Trainer, data: SceneData[Any]) -> None:
    stage = folder / "supernet"
    search, test = (_figures(kind, trainer, scenes) for scenes in (data.search, data.test))
    if not process.is_primary():
        return
    result = result_of(config, stage, trainer, data, search, test) | {"loss": "ce"}
    write_json(stage / "result.json", result)
    for name in search:
        label = kind.metric_label
        print(f"{name:8}  search split {label} {100 * search[name]:.1f} %  test split {label} {100 * test[name]:.1f} %")
    print(f"{ended(result)}; wrote {folder}")
