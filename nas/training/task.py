"""What a training learns: its images in batches, what becomes of a batch on the device, and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from nas.data import Data
from nas.data.batches import StepImages, normalize, train_batches, train_transform
from nas.distributed import process
from nas.evaluation.intervals import with_interval
from nas.networks.inherit import calibration_default, calibration_images
from nas.training.recipe import TrainConfig

Criterion = Callable[[Any, Any], Tensor]  # the loss of (what a network says of images, their target)


class Task(ABC):
    """A batch is uint8 (images, 3, height, width) and a target, of which a slice is the target of so many images.

    Attributes:
        train: the images.
        criterion: the loss of the network's output and a prepared target.
        image_size: height and width of the images, in the end.
        epochs: passes over the images.
        num_images, num_search_images: trained on, and evaluated on on the way.
        steps_per_epoch: equally many in each.
        images_per_step: on average.
        multiple: of what the images of a part of a step must be one (`nas.distributed.accumulation`).
        patience: so many evaluations without a better one end the training.
    """

    train: Any
    config: Any
    criterion: Criterion
    image_size: int
    epochs: int
    num_images: int
    num_search_images: int
    steps_per_epoch: int
    images_per_step: float
    multiple: int = 1
    patience: int | None = None

    @abstractmethod
    def batches(self, start: int) -> Iterator[tuple[Tensor, Any]]:
        """This process's share of the batch of every step from `start` on."""

    @abstractmethod
    def prepared(self, images: Tensor, target: Any, device: torch.device) -> tuple[Tensor, Any]:
        """Normalized images and target on the device; draws from torch's and NumPy's generators."""

    @abstractmethod
    def said(self, found: Mapping[str, float]) -> str:
        """What an evaluation on the search split has found, by name, as a few words of a line."""

    @cached_property
    def calibration(self) -> tuple[Tensor, ...]:
        """Images that shared norms are recalibrated on at each evaluation, read once; as bytes, to hold little."""
        count = calibration_default(self.image_size)
        return calibration_images(self.train, self.image_size, count, self.config.num_workers)


class Classification(Task):
    """A class for each image. Mixup and random erasing are timm's."""

    def __init__(self, data: Data, config: TrainConfig, image_size: int, device: torch.device) -> None:
        self.train, self.config, self.image_size = data.train, config, image_size
        self.num_images, self.num_search_images = len(data.train), len(data.search)
        self.epochs, self.patience = config.epochs, config.patience
        self.steps_per_epoch = config.steps_per_epoch(self.num_images)
        self.images_per_step = sum(step.number for step in self._steps(0)) / self.steps_per_epoch
        self.augment = config.augmentation(image_size)
        published = self.augment == "published"
        self.multiple = (2 if published else 1) * (8 if config.multi_scale else 1)  # images are mixed in pairs
        smoothing = config.label_smoothing
        labels: dict[str, Any] = {"label_smoothing": smoothing, "num_classes": len(data.classes)}
        self.mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, **labels) if published else None
        self.erase = RandomErasing(0.25, mode="pixel", device=device) if published else None
        self.criterion = SoftTargetCrossEntropy() if self.mixup else nn.CrossEntropyLoss(label_smoothing=smoothing)

    def batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        config = self.config
        return train_batches(
            self.train,
            self.transform,
            steps=self._steps,
            epochs=config.epochs,
            seed=config.seed,
            start=start,
            num_workers=config.num_workers,
            share=(process.rank(), process.world_size()),
        )

    def _steps(self, epoch: int) -> list[StepImages]:
        return self.config.steps(epoch, self.num_images, self.image_size)

    def transform(self, epoch: int, size: int) -> Any:
        """Of an epoch's images, to so many pixels."""
        _, strength = self.config.at_epoch(epoch, self.image_size)
        return train_transform(size, self.augment, self.config.hflip, strength)

    def prepared(self, images: Tensor, target: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        x, target = normalize(images, device, self.train.normalization), target.to(device, non_blocking=True)
        if self.erase is not None:
            x = self.erase(x)
        if self.mixup is not None:
            x, target = self.mixup(x, target)
        return x, target

    def said(self, found: Mapping[str, float]) -> str:
        """Accuracies, with 95 % intervals."""
        number = self.num_search_images
        return ", ".join(f"{n.removesuffix('_accuracy')} {with_interval(a, number, 1)}" for n, a in found.items())
