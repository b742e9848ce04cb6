"""What all trainings of supernets share: which networks their steps train, and how these share weights."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nas.distributed.accumulation import Parts
from nas.training.recipe import FREE_ON_RESUME, LoopConfig
from nas.training.task import Criterion
from nas.training.trainer import Backward, Step
from search_spaces import Arch, SearchSpace, UserError, arch_label
from search_spaces.command import check_idle, flag
from supernet import SAMPLERS, Supernet, middle, shrunk, train_step
from supernet.losses import Distillation
from supernet.sampling import Estimate


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


def watched(space: SearchSpace) -> dict[str, Arch]:
    """The networks whose figures are shown while the supernet is trained, by name."""
    return {"largest": space.largest, "middle": middle(space), "smallest": space.smallest}


def _progress(config: ElasticConfig, epoch: float) -> float:
    """Of the shrinking: 0 while only the largest network is trained, 1 when all are."""
    if epoch < config.largest_epochs:
        return 0.0
    return min(1.0, (epoch - config.largest_epochs) / config.shrink_epochs) if config.shrink_epochs else 1.0
