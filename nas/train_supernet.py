"""Train the weight-sharing supernet of a search space: sandwich rule, in-place distillation, a norm for each width.

Bare: the nano space on scikit-learn's digits, under three minutes on two cores. For ImageNet on a GPU:
    python -m nas.train_supernet --space efficientformerv2 --data /path/to/imagenet --workers 16
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas import runs
from nas.checkpoint import load_module, load_tensors, save_tensors
from nas.data import MEAN, STD, Data, DataConfig, load_data
from nas.training import FREE_ON_RESUME, Criterion, TrainConfig, Trainer, accuracy, with_digits_defaults
from search_spaces import SearchSpace, UserError, get_space
from search_spaces.command import flag, parse, run
from search_spaces.files import write_json
from supernet import Supernet, sandwich_archs, sandwich_step


@dataclass(frozen=True)
class Config(TrainConfig, DataConfig):
    space: str = flag("efficientformerv2-nano", "search space; `python -m search_spaces` lists them")
    image_size: int | None = flag(None, "height and width of the images (default: the space's)")
    num_random: int = flag(2, "random networks of a sandwich step", minimum=0)
    run: str | None = flag(None, "name of the run under runs/ (default: made of space, data and time)")
    resume: bool = flag(False, "go on with the run named, or the newest")


DIGITS_EPOCHS = 12


def train_supernet(config: Config) -> Path:
    """Trains, evaluates on the search and test splits and returns the run's folder."""
    config, folder = _begin(config)
    data = load_data(config)
    space = get_space(config.space, config.image_size, len(data.classes))
    info = runs.RunInfo(
        space.name, space.image_size, space.num_classes, data.classes, MEAN, STD, _data_config(config), data.splits
    )
    if config.resume:
        before = runs.load_run_info(folder.parent)
        if before.splits.digest != data.splits.digest:
            raise UserError(f"the data of {folder.parent} has changed since the run began; train a new run")
    else:
        runs.save_run_info(folder.parent, info)
    trainer = make_trainer(config, folder, space, data)
    if config.resume:
        trainer.resume()
    trainer.fit(f"supernet {space.name}")
    save_tensors(folder / "supernet.safetensors", trainer.ema.module.state_dict(), {"space": space.name})
    _finish(config, folder, trainer, data)
    return folder.parent


def make_trainer(config: Config, folder: Path, space: SearchSpace, data: Data) -> Trainer:
    torch.manual_seed(config.seed)
    supernet = Supernet(space, config.drop_path)

    def step(images: Tensor, target: Tensor, number: int, criterion: Criterion) -> Tensor:
        archs = sandwich_archs(space, random.Random(f"{config.seed}/{number}"), config.num_random)
        return sandwich_step(supernet, images, target, archs, criterion).mean()

    def evaluate(ema: nn.Module) -> dict[str, float]:
        return extremes_accuracy(ema, data.search, trainer)

    trainer = Trainer(supernet, data.train, config, folder, step, evaluate, space.image_size, space.num_classes)
    return trainer


def extremes_accuracy(supernet: Any, images: Any, trainer: Trainer) -> dict[str, float]:
    archs = {"largest": supernet.space.largest, "smallest": supernet.space.smallest}
    return {
        f"{name}_accuracy": accuracy(
            supernet.extract(arch).to(memory_format=torch.channels_last),
            images,
            trainer.image_size,
            trainer.device,
            trainer.config.workers,
        )
        for name, arch in archs.items()
    }


def load_supernet(folder: Path, device: torch.device) -> Supernet:
    """The finished supernet of a run, in evaluation mode.

    Raises:
        UserError: truncated, or of another space than the run's.
    """
    path = folder / "supernet" / "supernet.safetensors"
    supernet = Supernet(runs.load_run_info(folder).search_space())
    tensors, _ = load_tensors(path)
    load_module(supernet, tensors, path)
    return supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def _begin(config: Config) -> tuple[Config, Path]:
    if not config.resume:
        if config.data == "digits":
            config = with_digits_defaults(config, DIGITS_EPOCHS)
        stem = Path(config.data).name.removesuffix(".tar") or "data"
        name = config.run or f"{config.space}-{stem}-{datetime.now():%Y%m%d-%H%M%S}"
        folder = runs.RUNS / name / "supernet"
        runs.begin(folder, config, False, FREE_ON_RESUME)
        return config, folder
    run_folder = runs.find_run(config.run, "supernet/config.json", "python -m nas.train_supernet")
    folder = run_folder / "supernet"
    config = replace(
        runs.resumable(folder, Config, config, FREE_ON_RESUME), resume=True, run=config.run or run_folder.name
    )
    runs.begin(folder, config, True, (*FREE_ON_RESUME, "resume", "run"))
    return config, folder


def _data_config(config: Config) -> DataConfig:
    return DataConfig(**{name: getattr(config, name) for name in DataConfig.__dataclass_fields__})


def _finish(config: Config, folder: Path, trainer: Trainer, data: Data) -> None:
    search = extremes_accuracy(trainer.ema.module, data.search, trainer)
    test = extremes_accuracy(trainer.ema.module, data.test, trainer)
    result = {
        "command": runs.command_line(),
        "epochs": config.epochs,
        "steps": trainer.step,
        "minutes": trainer.seconds / 60,
        "images_per_s": trainer.step * config.batch_size / trainer.seconds,
        "bf16": trainer.amp,
        "num_images": {"train": data.splits.train, "search": data.splits.search, "test": data.splits.test},
        "search_accuracy": {n.removesuffix("_accuracy"): a for n, a in search.items()},
        "test_accuracy": {n.removesuffix("_accuracy"): a for n, a in test.items()},
    }
    write_json(folder / "result.json", result)
    if data.splits.skipped:
        print(f"skipped {len(data.splits.skipped)} corrupt images: {', '.join(data.splits.skipped[:5])}")
    for name in ("largest", "smallest"):
        print(
            f"{name:8}  search split {100 * result['search_accuracy'][name]:.2f} %  "
            f"test split {100 * result['test_accuracy'][name]:.2f} %"
        )
    print(f"{trainer.seconds / 60:.1f} minutes, {result['images_per_s']:.0f} images/s; wrote {folder.parent}")


def main() -> None:
    train_supernet(parse(Config, None, "python -m nas.train_supernet", __doc__ or ""))


if __name__ == "__main__":
    run(main)
