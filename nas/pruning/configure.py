"""What a pruning is of, where it goes, and the settings that were not given."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from nas import runs
from nas.pruning.config import Config
from nas.pruning.source import Source, find
from nas.training.recipe import StepConfig, TrainConfig, check_used, with_recipe
from search_spaces.command import amend, check_idle, fill, given
from search_spaces.command.files import slug

DIGITS_EPOCHS = {"dense_epochs": 12, "finetune_epochs": 10}  # two minutes in all, on two cores


def configure(config: Config) -> tuple[Config, Source, Path]:
    """The config, the network and the folder of the pruning; what was not given is as begun, or suits the images.

    Raises:
        UserError: no such network, or a family that cannot be pruned; flags that do not go together.
    """
    runs.check_name("--name", config.name)
    if config.resume:
        pattern = f"prune/{config.name or '*'}/config.json"
        folder = runs.newest(runs.find_run(config.run, pattern, "python -m nas.prune"), pattern)
        assert folder is not None
        config = fill(config, runs.begun(folder.parent, Config))
        config = amend(config, model=runs.follow(config.model, folder.parents[2]))
        return config, _source(config, named=True), folder.parent
    config.check()
    found = _source(config, named="data" in given(config))
    if found.weights is not None:
        check_idle(config, ("dense_epochs",), "a network without weights")
    data = found.data
    train = with_recipe(TrainConfig(), found.recipe.image_size, data.data, DIGITS_EPOCHS["dense_epochs"])
    epochs = DIGITS_EPOCHS if data.data == "digits" else {"dense_epochs": train.epochs}
    suited: dict[str, Any] = {f.name: getattr(train, f.name) for f in fields(StepConfig)} | epochs
    config = fill(config, replace(config, **asdict(data), **suited))
    check_used(config)
    run_folder = runs.run_folder(config.run) if config.run else found.run or _default_run(config)
    words = [config.target.replace("=", "-"), config.criterion, config.method().scope]
    if config.normalize != "macs":
        words.append(f"per-{config.normalize}" if config.normalize != "none" else "per-unit")
    if config.iterative > 1:
        words.append(f"{config.iterative}x")
    name = config.name or slug("-".join([Path(config.model).name, *words]))
    return config, found, run_folder / "prune" / name


def _source(config: Config, *, named: bool) -> Source:
    return find(
        config.model,
        config.checkpoint,
        config.image_size,
        config.data_config(),
        named=named,
        mean=config.mean,
        std=config.std,
    )


def _default_run(config: Config) -> Path:
    return runs.run_folder(slug(f"{config.model}-{Path(config.data).name.removesuffix('.tar') or 'data'}"))
