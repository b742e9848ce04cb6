"""What a network of a kind learns, for the training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from nas.data.batches import StepImages, normalize
from nas.dense.kind import Kind
from nas.distributed import process
from nas.scenes import SceneData
from nas.scenes.batches import train_scenes
from nas.training.task import Criterion, Task
from search_spaces import UserError


class DenseTask(Task):
    """All steps have as many images of the same size.

    Args:
        config: of the loop, with `image_size` and `epochs`.
        loss: of what a network says of images, and a prepared target.

    Raises:
        UserError: a batch of more images than there are.
    """

    def __init__(self, kind: Kind[Any, Any], data: SceneData[Any], config: Any, loss: Criterion) -> None:
        self.kind, self.train, self.config = kind, data.train, config
        self.criterion: Any = loss
        self.num_images, self.num_search_images = len(data.train), len(data.search)
        if config.batch_size > self.num_images:
            raise UserError(
                f"--batch-size {config.batch_size} is more than the {self.num_images} training images; lower it"
            )
        self.image_size, self.epochs, self.images_per_step = config.image_size, config.epochs, config.batch_size
        self.steps_per_epoch = self.num_images // config.batch_size

    def batches(self, start: int) -> Iterator[tuple[Tensor, Any]]:
        config, steps = self.config, [StepImages(self.image_size, self.config.batch_size)] * self.steps_per_epoch
        return train_scenes(
            self.train,
            lambda _, size: self.kind.transform(config, size),
            steps=lambda _: steps,
            epochs=config.epochs,
            seed=config.seed,
            start=start,
            num_workers=config.num_workers,
            share=(process.rank(), process.world_size()),
        )

    def prepared(self, images: Tensor, target: Any, device: torch.device) -> tuple[Tensor, Any]:
        return normalize(images, device, self.train.normalization), self.kind.prepared(target, device)

    def said(self, found: Mapping[str, float]) -> str:
        return ", ".join(f"{self.kind.metric_label} {100 * value:.1f} %" for value in found.values())
