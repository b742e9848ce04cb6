"""What all trainings of supernets share: which networks their steps train, and how these share weights."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas import runs
from nas.data.batches import normalize
from nas.distributed import collectives, process
from nas.distributed.accumulation import Parts
from nas.networks.inherit import default_calibration, inherited
from nas.runs.checkpoint import save_tensors
from nas.runs.results import lasted
from nas.training.recipe import FREE_ON_RESUME, LoopConfig
from nas.training.task import Criterion
from nas.training.trainer import Backward, Step, Trainer
from search_spaces import Arch, SearchSpace, UserError, arch_label
from search_spaces.command import check_idle, flag
from search_spaces.command.files import slug
from supernet import SAMPLERS, Supernet, middle, shrunk, train_step
from supernet.losses import Distillation
from supernet.sampling import Estimate
from supernet.store import Norm


@dataclass(frozen=True)
class ElasticConfig(LoopConfig):
    image_size: int | None = flag(None, "height and width of the images (default: the space's)")
    sampling: Literal["sandwich", "balanced", "best-up", "worst-up", "uniform", "largest"] = flag(
        "sandwich",
        "networks of a step: the largest, the smallest and random ones (sandwich), the best or worst of three of these "
        "(best-up, worst-up); the largest and random ones of all costs alike (balanced); only random ones (uniform); "
        "only the largest",
    )
    num_random: int = flag(2, "random networks of a step; balanced has one more, for the smallest", minimum=0)
    norm: Literal["width", "shared"] = flag(
        "width", "normalization: for each width its own, or shared, its statistics recalibrated for each network"
    )
    largest_epochs: float = flag(0.0, "epochs at the beginning that train only the largest network", minimum=0)
    shrink_epochs: float = flag(0.0, "epochs after these in which smaller options join, step by step", minimum=0)
    checkpoint_activations: bool = flag(
        False, "compute activations again in the backward pass, for larger networks and batches: slower"
    )
    run: str | None = flag(None, "name of the run under runs/ (default: made of space, data and time)")
    resume: bool = flag(False, "go on with the run named, or the newest")


IMAGES_ON_THE_WAY = 512
FREE = (*FREE_ON_RESUME, "checkpoint_activations", "resume", "run")


def check_sampling(config: ElasticConfig, learned: tuple[str, ...] = ()) -> None:
    """UserError if a flag was given that --sampling leaves without effect.

    Args:
        learned: further flags of what all but the largest network learn from.
    """
    if config.sampling == "largest":
        others = (*learned, "num_random", "largest_epochs", "shrink_epochs")
        check_idle(config, others, "other networks than --sampling largest trains")


def check_elastic(config: ElasticConfig, epochs: int) -> None:
    """UserError if the settings cannot go together.

    Args:
        epochs: of the training.
    """
    if config.sampling == "uniform" and config.num_random == 0:
        raise UserError("--num-random 0 leaves --sampling uniform nothing to train; give at least 1")
    largest_alone = config.sampling == "largest" or config.largest_epochs == epochs
    if config.norm == "width" and (largest_alone or (config.num_random == 0 and config.sampling != "balanced")):
        trained = "the largest network" if largest_alone else "the largest and the smallest network"
        raise UserError(
            f"only {trained} would be trained, and no other width's normalization, so no other network could be "
            "searched for; give --norm shared, or another --sampling, fewer --largest-epochs or --num-random 1"
        )
    if config.largest_epochs + config.shrink_epochs > epochs:
        raise UserError(
            f"--largest-epochs {config.largest_epochs} and --shrink-epochs {config.shrink_epochs} are more than the "
            f"{epochs} epochs; give less of them, or more --epochs"
        )


def step_archs(
    config: ElasticConfig, space: SearchSpace, steps_per_epoch: int
) -> Callable[[int, Estimate], tuple[Arch, ...]]:
    """Which networks each step of a training trains: a function of its number, and of an estimate of their loss."""
    sampler = SAMPLERS[config.sampling](space, config.num_random)

    def archs(number: int, estimate: Estimate) -> tuple[Arch, ...]:
        progress = _progress(config, number / steps_per_epoch)
        if progress == 0:
            return (space.largest,)

        def opened(arch: Arch) -> Arch:
            return shrunk(space, arch, progress)

        drawn = sampler(random.Random(f"{config.seed}/{number}"), lambda arch: estimate(opened(arch)))
        return tuple(dict.fromkeys(map(opened, drawn)))

    return archs


def step_of(
    supernet: Supernet,
    archs_of_step: Callable[[int, Estimate], tuple[Arch, ...]],
    distillation: Distillation | None,
    parts: Callable[[], Parts],
) -> Step:
    """The passes of a step, those of its networks.

    Args:
        parts: those of a step of the trainer, once there is one.
    """

    def step(images: Tensor, target: Tensor, number: int, criterion: Criterion, backward: Backward) -> Tensor:
        def estimate(arch: Arch) -> float:
            with torch.no_grad(), supernet.frozen_statistics():
                loss = parts().decide(lambda: float(criterion(supernet(images, arch), target)))
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss of {arch_label(supernet.space, arch)} is {loss}")
            return loss

        archs = archs_of_step(number, estimate)
        torch.clear_autocast_cache()  # older torch would train with the estimate's weights, cast without gradient
        return train_step(supernet, images, target, archs, criterion, distillation, backward).mean()

    return step


def run_of(config: Any) -> Path:
    """The run's folder: the one to go on with on `resume`, else a new one, the same for all processes."""
    if config.resume:
        return runs.find_run(config.run, "supernet/config.json", "python -m nas.train_supernet")
    stem = Path(config.data).name.removesuffix(".tar") or "data"
    name = config.run or slug(f"{config.space}-{stem}-{datetime.now():%Y%m%d-%H%M%S}")  # noqa: DTZ005
    return runs.run_folder(collectives.gather(name)[0])


def resume(
    config: Any, folder: Path, may_change: tuple[str, ...], **facts: Any
) -> tuple[runs.AnyData | None, dict[str, Any]]:
    """The run's data, wherever it lies now, and the settings to record; of a finished run None, all recorded.

    Args:
        may_change: settings that say where something lies.
    """
    stage = folder / "supernet"
    finished = (stage / "result.json").exists()
    changed = runs.reopen(stage, config, FREE, (*may_change, *(() if finished else ("epochs",))), **facts)
    data = runs.load_run_images(folder, config) if not finished or runs.has_moved(folder, config) else None
    if finished:
        record(config, folder, changed)
    return None if finished else data, changed


def record(config: Any, folder: Path, changed: dict[str, Any]) -> None:
    runs.record_place(folder, config)
    runs.record(folder / "supernet", changed)


def save_weights(stage: Path, trainer: Trainer, norm: Norm) -> None:
    """The averaged supernet's."""
    store: Any = trainer.ema.module
    if process.is_primary():
        save_tensors(stage / "supernet.safetensors", store.state_dict(), {"space": store.space.name, "norm": norm})


def result_of(
    config: ElasticConfig,
    stage: Path,
    trainer: Trainer,
    data: runs.AnyData,
    search: Mapping[str, float],
    test: Mapping[str, float],
) -> dict[str, Any]:
    """`result.json` of a supernet.

    Args:
        search, test: what the watched networks reach on these splits.
    """
    return {
        "command": runs.command_of(stage),
        "sampling": config.sampling,
        "norm": config.norm,
        **trainer.ending,
        "steps": trainer.step,
        "images_per_s": trainer.step * trainer.task.images_per_step / trainer.seconds,
        "amp": trainer.amp,
        "processes": process.world_size(),
        "accumulation_steps": config.accumulation_steps,
        "num_images": {"train": data.splits.train, "search": data.splits.search, "test": data.splits.test},
        "search_accuracy": dict(search),
        "test_accuracy": dict(test),
    }


def ended(result: Mapping[str, Any]) -> str:
    """How long a training lasted, for the terminal."""
    return f"{lasted(result)} in {result['minutes']:.1f} minutes, {result['images_per_s']:.0f} images/s"


def watched(trainer: Trainer) -> dict[str, nn.Module]:
    """The averaged supernet's networks whose figures are shown, by name: its largest, middle and smallest.

    Shared norms are recalibrated, until the last step on 512 images, which take longer than to evaluate on a few
    hundred. A batch of 256 alone moved an accuracy of 78 % by up to 4 points.
    """
    supernet: Any = trainer.ema.module
    space, task, is_last = supernet.space, trainer.task, trainer.is_over
    images = task.calibration if default_calibration(supernet) else ()
    if images and not is_last:
        images = images[: math.ceil(IMAGES_ON_THE_WAY / len(images[0]))]
    batches = [normalize(batch, trainer.device, task.train.normalization) for batch in images]
    archs = {"largest": space.largest, "middle": middle(space), "smallest": space.smallest}
    return {name: inherited(supernet, arch, batches) for name, arch in archs.items()}


def _progress(config: ElasticConfig, epoch: float) -> float:
    """Of the shrinking: 0 while only the largest network is trained, 1 when all are."""
    if epoch < config.largest_epochs:
        return 0.0
    return min(1.0, (epoch - config.largest_epochs) / config.shrink_epochs) if config.shrink_epochs else 1.0
