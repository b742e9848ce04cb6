"""Batches of images with boxes, masks or both, from any step on: every draw is a function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import compress
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from nas.data.batches import EpochSteps, Key, Samples, TrainKeys, eval_keys, load_batches
from nas.scenes import run_lengths
from nas.scenes.boxes import BoxTarget
from nas.scenes.masks import IGNORED
from nas.scenes.run_lengths import RunLengths, packed
from nas.scenes.transforms import Joint, as_boxes, eval_transform, shrunk
from nas.scenes.views import BoxScenes, InstanceScenes, MaskScenes, Scenes

EpochJoint = Callable[[int, int], Joint]  # of an epoch, to so many pixels a side


class TrainBoxes(TypedDict):
    """Of one image: boxes (n, 4) float32 (left, top, right, bottom) in its pixels, labels (n,) int64 from 0."""

    boxes: Tensor
    labels: Tensor


class EvalBoxes(TrainBoxes):
    """Also iscrowd (n,) bool and area (n,) float32, in pixels of the image as it was, whose (height, width) is `size`
    (2,) int64: boxes times size over the batch's sides are those that the annotations give."""

    iscrowd: Tensor
    area: Tensor
    size: Tensor


class TrainInstances(TrainBoxes):
    """Also masks (n, H, W) uint8, 1 where the object in a box is seen: each has such a pixel."""

    masks: Tensor


class EvalInstances(EvalBoxes):
    """Also the mask of each, in pixels of the image as it was."""

    masks: list[RunLengths]


MaskBatch = tuple[Tensor, Tensor]


def train_scenes(
    scenes: Scenes,
    transform: EpochJoint,
    *,
    steps: EpochSteps,
    epochs: int,
    seed: int,
    start: int,
    num_workers: int,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Any]]:
    """(uint8 images (B, 3, H, W), what is on each) of every step from `start` on; crowds are left out. Of masks the
    second is uint8 (B, H, W), 255 ignored.

    Args:
        steps: of an epoch; equally many in each, of no more images than there are.
        share: (number, of how many): which of so many equal parts of each batch.

    Raises:
        UserError: 100 images in a row are corrupt.
    """
    keys = TrainKeys(len(scenes), steps, epochs, seed, start, share)
    samples, collate = _TRAIN[type(scenes)]
    yield from load_batches(samples(scenes, transform, seed, replace=True), keys, num_workers, collate)


def eval_scenes(
    scenes: Scenes, image_size: int, batch_size: int, num_workers: int = 0, share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Tensor, list[Any]]]:
    """(uint8 images (B, 3, S, S), what is on each) of the whole split in order; masks as large as they were given.

    A corrupt image is black and, wholly, a crowd of every class, or a mask of 255: nothing that is found there counts.

    Args:
        share: (first, step): only every so many-th image.
    """
    keys = eval_keys(len(scenes), image_size, batch_size, share)
    samples = _EVAL[type(scenes)](scenes, lambda _, size: eval_transform(size), 0, replace=False)
    yield from load_batches(samples, keys, num_workers, _listed)


class _Boxes(Samples[tuple[Image.Image, BoxTarget], tuple[Tensor, Any]]):
    images: BoxScenes

    def __init__(self, scenes: BoxScenes, transform: EpochJoint, seed: int, replace: bool) -> None:
        super().__init__(scenes, seed, replace)
        self.transform = cache(transform)

    def read(self, position: int) -> tuple[Image.Image, BoxTarget]:
        return self.images.image(position), self.images.target(position)


class _TrainBoxes(_Boxes):
    longest = 4  # side of an image that is augmented, in multiples of its side in the batch: a photo takes seconds

    def sample(self, raw: tuple[Image.Image, BoxTarget], key: Key) -> tuple[Tensor, TrainBoxes]:
        image, given = self.small(*raw, key)
        pixels, found = self.transform(*key[:2])(image, given)
        return pixels.as_subclass(Tensor), {"boxes": found["boxes"].as_subclass(Tensor), "labels": found["labels"]}

    def small(self, image: Image.Image, target: BoxTarget, key: Key) -> tuple[Image.Image, dict[str, Tensor]]:
        """The image as it is augmented, and what is on it but crowds."""
        small, single = shrunk(image, self.longest * key[1]), ~target["iscrowd"]
        scale = np.array(2 * (small.width / image.width, small.height / image.height), dtype=np.float32)
        boxes = as_boxes(target["boxes"][single] * scale, small.size)
        return small, {"boxes": boxes, "labels": torch.tensor(target["labels"][single])}

    def blank(self, key: Key) -> tuple[Tensor, TrainBoxes]:
        size = key[1]
        nothing = TrainBoxes(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
        return torch.zeros(3, size, size, dtype=torch.uint8), nothing


class _EvalBoxes(_Boxes):
    def sample(self, raw: tuple[Image.Image, BoxTarget], key: Key) -> tuple[Tensor, EvalBoxes]:
        image, target = raw
        pixels, boxes = self.transform(*key[:2])(image, as_boxes(target["boxes"], image.size))
        return pixels.as_subclass(Tensor), {
            "boxes": boxes.as_subclass(Tensor),
            "labels": torch.tensor(target["labels"]),
            "iscrowd": torch.tensor(target["iscrowd"]),
            "area": torch.tensor(target["area"]),
            "size": torch.tensor([image.height, image.width]),
        }

    def blank(self, key: Key) -> tuple[Tensor, EvalBoxes]:
        size, classes = key[1], len(self.images.classes)
        crowds = EvalBoxes(
            boxes=torch.tensor([[0.0, 0.0, size, size]]).repeat(classes, 1),
            labels=torch.arange(classes),
            iscrowd=torch.ones(classes, dtype=torch.bool),
            area=torch.full((classes,), float(size * size)),
            size=torch.tensor([size, size]),
        )
        return torch.zeros(3, size, size, dtype=torch.uint8), crowds


class _TrainInstances(_TrainBoxes):
    longest = 2  # no transform of theirs crops to less than 0.7 of an image, and each object has a mask

    def sample(self, raw: tuple[Image.Image, Any], key: Key) -> tuple[Tensor, TrainInstances]:
        (whole, target), (image, given) = raw, self.small(*raw, key)
        runs = list(compress(target["masks"], ~target["iscrowd"]))
        masks = run_lengths.shrunk(runs, (whole.height, whole.width), (image.height, image.width))
        given["masks"] = tv_tensors.Mask(torch.from_numpy(masks))
        pixels, found = self.transform(*key[:2])(image, given)
        boxes, labels, masks = (found[name].as_subclass(Tensor) for name in ("boxes", "labels", "masks"))
        seen = masks.bool().flatten(1).any(dim=1)  # a crop may have part of a box, and nothing of what is in it
        return pixels.as_subclass(Tensor), {"boxes": boxes[seen], "labels": labels[seen], "masks": masks[seen]}

    def blank(self, key: Key) -> tuple[Tensor, TrainInstances]:
        black = torch.zeros(3, key[1], key[1], dtype=torch.uint8)
        return black, TrainInstances(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), masks=black[:0])


class _EvalInstances(_EvalBoxes):
    def sample(self, raw: tuple[Image.Image, Any], key: Key) -> tuple[Tensor, EvalInstances]:
        pixels, boxes = super().sample(raw, key)
        return pixels, {**boxes, "masks": raw[1]["masks"]}

    def blank(self, key: Key) -> tuple[Tensor, EvalInstances]:
        black, crowds = super().blank(key)
        return black, {**crowds, "masks": packed(np.ones((len(crowds["labels"]), key[1], key[1])))}


class _TrainMasks(Samples[tuple[Image.Image, np.ndarray], tuple[Tensor, Tensor]]):
    images: MaskScenes

    def __init__(self, scenes: MaskScenes, transform: EpochJoint, seed: int, replace: bool) -> None:
        super().__init__(scenes, seed, replace)
        self.transform = cache(transform)

    def read(self, position: int) -> tuple[Image.Image, np.ndarray]:
        return self.images.image(position), self.images.mask(position)

    def sample(self, raw: tuple[Image.Image, np.ndarray], key: Key) -> tuple[Tensor, Tensor]:
        image, mask = raw
        pixels, found = self.transform(*key[:2])(image, tv_tensors.Mask(torch.from_numpy(mask)))
        return pixels.as_subclass(Tensor), found.as_subclass(Tensor)

    def blank(self, key: Key) -> tuple[Tensor, Tensor]:
        size = key[1]
        black = torch.zeros(3, size, size, dtype=torch.uint8)
        return black, torch.full((size, size), IGNORED, dtype=torch.uint8)


class _EvalMasks(_TrainMasks):
    def sample(self, raw: tuple[Image.Image, np.ndarray], key: Key) -> tuple[Tensor, Tensor]:
        image, mask = raw
        pixels: Tensor = self.transform(*key[:2])(image)
        return pixels.as_subclass(Tensor), torch.from_numpy(mask)


def _listed(samples: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, list[Any]]:
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), list(targets)


def _stacked(samples: Sequence[tuple[Tensor, Tensor]]) -> MaskBatch:
    images, masks = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(masks)


_TRAIN: dict[type[Scenes], tuple[Any, Any]] = {
    BoxScenes: (_TrainBoxes, _listed),
    InstanceScenes: (_TrainInstances, _listed),
    MaskScenes: (_TrainMasks, _stacked),
}
_EVAL: dict[type[Scenes], Any] = {BoxScenes: _EvalBoxes, InstanceScenes: _EvalInstances, MaskScenes: _EvalMasks}
