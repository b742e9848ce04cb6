"""Prune a network to a part of its MACs, parameters or latency, fine-tune, measure and export it.

Bare: DeiT-T, trained on scikit-learn's digits first, to half its MACs. A network of your own, or one of timm's:
    python -m nas.prune --model runs/my-run/retrain/winner-1 --target latency=0.6
    python -m nas.prune --model deit_tiny_patch16_224 --checkpoint deit.safetensors --data /path/to/imagenet
A timm network without a checkpoint is trained first (--dense-epochs), once for all prunings of its run. The target is a
share of what the network given costs; a pruned network can be pruned again. Of other families than the known ones,
what can be pruned is found by following its channels, and by running it without some.

The default, Taylor importance with all units in one ranking, is NViT's (Yang et al., CVPR 2023), divided by the MACs
that removal saves instead of by latency. With isomorphic groups (Fang et al., ECCV 2024) every structure loses the same
share, which cost 10 to 30 points (docs/results.md, "Pruning"). The training flags are for both trainings; their
defaults are nas.retrain's, but for --drop-path. Either can end earlier: --resume --finetune-epochs 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from nas import runs
from nas.pruning.config import Config
from nas.pruning.job import prune
from nas.pruning.source import Source, find
from nas.training.recipe import StepConfig, TrainConfig, with_recipe
from search_spaces.command import amend, fill, given, parse, run
from search_spaces.command.files import slug

DIGITS_EPOCHS = {"dense_epochs": 12, "finetune_epochs": 10}  # two minutes in all, on two cores


def configure(argv: Sequence[str] | None) -> tuple[Config, Source, Path]:
    """The flags, the network and the folder of the pruning; flags not given are as it was begun, or suit the images.

    Raises:
        UserError: no such network, or a family that cannot be pruned; flags that do not go together.
    """
    config = parse(Config, argv, "python -m nas.prune", __doc__ or "")
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
    data = found.data
    train = with_recipe(TrainConfig(), found.recipe.image_size, data.data, DIGITS_EPOCHS["dense_epochs"])
    epochs = DIGITS_EPOCHS if data.data == "digits" else {"dense_epochs": train.epochs}
    suited: dict[str, Any] = {f.name: getattr(train, f.name) for f in fields(StepConfig)} | epochs
    config = fill(config, replace(config, **asdict(data), **suited))
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


def main(argv: Sequence[str] | None = None) -> None:
    prune(*configure(argv))


if __name__ == "__main__":
    run(main, "go on with --resume")
