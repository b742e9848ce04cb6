"""Trains a pretrained network of timm as it is: `retrain/whole/` of a new run, in which its parts are searched then."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from nas import runs
from nas.data import Data, DataConfig, load_data
from nas.distributed import collectives
from nas.distributed.device import pick_device
from nas.evaluation.intervals import with_interval
from nas.networks.start import fitted_start
from nas.networks.weights import CheckpointImages, init_normalization
from nas.runs.results import lasted
from nas.training.network import train_network
from nas.training.recipe import (
    FREE_ON_RESUME,
    TrainConfig,
    check_alike,
    check_fits,
    check_used,
    finetune_epochs,
    with_recipe,
)
from search_spaces import SearchSpace, get_space
from search_spaces.command import amend, fill, flag, given
from search_spaces.command.files import slug
from search_spaces.timm_network import PREFIX


@dataclass(frozen=True)
class Config(TrainConfig, DataConfig, CheckpointImages):
    model: str = flag(
        "tf_efficientnet_lite0", "timm name of the network; NAME@2x16: of each dimension two sizes, multiples of 16"
    )
    init: str = flag("pretrained", "its weights: a file, a folder of ours, or pretrained (timm's own, downloaded)")
    image_size: int | None = flag(None, "height and width of the images (default: timm's)")
    run: str | None = flag(None, "name of the run under runs/ (default: made of model, data and time)")
    resume: bool = flag(False, "go on with the run named, or the newest")


FREE = (*FREE_ON_RESUME, "run", "resume")


def suited(config: Config) -> Config:
    """The config with the recipe that suits the network, or the one that it names."""
    space = get_space(PREFIX + config.model, config.image_size)
    return with_recipe(config, space.image_size, config.data, 10, space.finetune)


def run_of(config: Config) -> Path:
    """The run's folder: the one to go on with on `resume`, else a new one, the same for all processes."""
    if config.resume:
        return runs.find_run(config.run, f"retrain/{runs.WHOLE}/config.json", "python -m nas.finetune")
    stem = Path(config.data).name.removesuffix(".tar") or "data"
    name = config.run or slug(f"{config.model}-{stem}-{datetime.now():%Y%m%d-%H%M%S}")  # noqa: DTZ005
    return runs.run_folder(collectives.gather(name)[0])


def configure(config: Config) -> Config:
    """The config; what was not given is as the run was begun with, or what suits the images."""
    if config.resume:
        folder = run_of(config)
        return amend(fill(config, runs.begun(folder / "retrain" / runs.WHOLE, Config)), run=str(folder))
    config = fill(config, suited(config))
    check_used(config)
    return config


def finetune(config: Config) -> Path:
    """Trains and tests the network and returns the run's folder; goes on with it on `resume`."""
    run_folder = run_of(config)
    folder = run_folder / "retrain" / runs.WHOLE
    changed: dict[str, Any] = {}
    if config.resume:
        finished = (folder / "result.json").exists()
        changed = runs.reopen(folder, config, FREE, (*runs.ClassesRun.may_move, *(() if finished else ("epochs",))))
        if finished:
            if runs.has_moved(run_folder, config):
                runs.load_run_data(run_folder, config)  # UserError if these are others
            _record(config, run_folder, changed)
            print(f"{folder} is finished: nothing to train")
            return run_folder
        data = runs.load_run_data(run_folder, config)
    else:
        runs.check_new(folder, "--run")
        data = load_data(config)
        if config.is_finetuning and "epochs" not in given(config):
            config = amend(config, epochs=finetune_epochs(len(data.train)))
    check_alike(config, data.splits.digest)
    space = get_space(PREFIX + config.model, config.image_size, len(data.classes))
    check_fits(config, space)
    if not config.resume:
        images = init_normalization(space, config.init, config)
        data = data.normalized(images.mean, images.std)
    info = runs.ClassesRun.of(space, data, config.data_config())
    runs.check_run(run_folder, info)

    def begin() -> None:
        if config.resume:
            _record(config, run_folder, changed)
        else:
            runs.begin_run(run_folder, info, folder, config)

    start = partial(_start, config, space, data)
    facts = {"init": config.init}
    found = train_network(config, folder, space, space.largest, data, start, begin, facts=facts, resume=config.resume)
    print(
        f"{config.model}: test accuracy {100 * found['start_test_accuracy']:.2f} % at the start, "
        f"{with_interval(found['test_accuracy'], len(data.test))} after {lasted(found)}; wrote {folder}"
    )
    return run_folder


def _record(config: Config, run_folder: Path, changed: dict[str, Any]) -> None:
    """Takes down what has changed since the run was begun."""
    runs.record_place(run_folder, config)
    runs.record(run_folder / "retrain" / runs.WHOLE, changed)


def _start(config: Config, space: SearchSpace, data: Data, network: nn.Module) -> None:
    """Puts the weights that --init names into the network, with a classifier fitted to the images if it is new."""
    _, start = fitted_start(space, config.init, data.train, pick_device(config.device), config.num_workers)
    network.load_state_dict(start.state_dict())
