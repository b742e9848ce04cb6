"""How well class maps match masks: intersection over union (Jaccard 1912) of each class, by the pixels of all images.

Maps are compared at the size of the masks themselves, as PASCAL VOC does (Everingham et al., 2010, Section 4.1), not at
that of the images as a network takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data.batches import normalize
from nas.distributed import collectives, process
from nas.scenes import MaskScenes
from nas.scenes.batches import eval_scenes
from nas.scenes.masks import IGNORED
from search_spaces.command.typed import Count, Fraction

BATCH_SIZE = 8
MAX_NUMBERS = 2**25  # held at once while logits are resized


class MaskFigures(TypedDict):
    """What a segmenter reaches on a split.

    Args:
        iou: of each class, None of one that occurs neither in masks nor in predictions; `miou` is their mean.
        confusion: pixels of the class of the row that were taken for that of the column.
    """

    miou: Fraction
    pixel_accuracy: Fraction
    iou: list[Fraction | None]
    confusion: list[list[Count]]


class PixelConfusion:
    """Counts over the maps added so far.

    Attributes:
        counts: (num_classes, num_classes) int64, pixels of the class of the row that were taken for that of the column.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)

    def add(self, predicted: Tensor, mask: Tensor) -> None:
        """Classes of pixels, and those that they have: both of one shape; 255 in the mask does not count."""
        known = mask != IGNORED
        pairs = mask[known].long() * len(self.counts) + predicted[known].long()
        self.counts += torch.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape).numpy()

    @property
    def iou(self) -> list[float | None]:
        """Of each class: pixels that are of it in both, over those that are in either; None of a class in neither."""
        both = np.diagonal(self.counts)
        either = self.counts.sum(axis=0) + self.counts.sum(axis=1) - both
        return [float(b / e) if e else None for b, e in zip(both, either, strict=True)]

    @property
    def miou(self) -> float:
        """Their mean, over the classes that have one; 0 if none has.

        That is torchmetrics' `JaccardIndex(task="multiclass", average="macro", ignore_index=255)`.
        """
        return float(np.mean([one for one in self.iou if one is not None] or [0.0]))

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that have their class; 0 if there are none."""
        return float(np.trace(self.counts) / max(self.counts.sum(), 1))

    @property
    def figures(self) -> MaskFigures:
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "iou": self.iou,
            "confusion": self.counts.tolist(),
        }


def class_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(height, width) int64: of logits (num_classes, H, W), resized bilinearly to that size, the largest's class.

    Classes are resized a few at a time, as many as memory has room for: a photograph has millions of pixels.
    """
    few = max(1, MAX_NUMBERS // (size[0] * size[1]))
    best, found = torch.full(size, -torch.inf, device=logits.device), torch.zeros(size, dtype=torch.int64)
    found = found.to(logits.device)
    for first in range(0, len(logits), few):
        part = F.interpolate(logits[None, first : first + few].float(), size, mode="bilinear", align_corners=False)[0]
        values, places = part.max(dim=0)
        better = values > best
        best, found = values.where(better, best), (first + places).where(better, found)
    return found


def of_image(logits: Tensor, mask: Tensor) -> PixelConfusion:
    """
    Args:
        logits: (num_classes, H, W), of an image whose mask may have another size.
    """
    found = PixelConfusion(len(logits))
    found.add(class_map(logits, (mask.shape[0], mask.shape[1])).cpu(), mask)
    return found


def together(images: Sequence[PixelConfusion], num_classes: int) -> PixelConfusion:
    """Of the pixels of all images."""
    found = PixelConfusion(num_classes)
    for image in images:
        found.counts += image.counts
    return found


@torch.inference_mode()
def confusion(
    network: nn.Module, scenes: MaskScenes, image_size: int, device: torch.device, num_workers: int = 0
) -> PixelConfusion:
    """Of the pixels of a split, by a network in evaluation mode.

    All processes of a job must ask for it: each looks at its share of the images.

    Args:
        network: normalized images (B, 3, S, S) to logits (B, num_classes, S, S).
    """
    found = PixelConfusion(len(scenes.classes))
    share = (process.rank(), process.world_size())
    for images, masks in eval_scenes(scenes, image_size, BATCH_SIZE, num_workers, share):
        outputs = network(normalize(images, device, scenes.normalization))
        for pair in zip(outputs, masks, strict=True):
            found.counts += of_image(*pair).counts
    total = collectives.total(*found.counts.ravel().tolist())
    found.counts = np.array(total).astype(np.int64).reshape(found.counts.shape)
    return found
