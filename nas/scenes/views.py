"""A split of scenes: images with what is on them, some rows of all that were read."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from PIL import Image

from nas.data.listing import some
from nas.data.sources import Skipped
from nas.data.splits import Normalization
from nas.scenes.boxes import Boxes, BoxTarget
from nas.scenes.masks import IGNORED, Masks
from nas.scenes.pictures import Pictures
from nas.scenes.run_lengths import RunLengths
from search_spaces import UserError

S = TypeVar("S", bound="Scenes")


@dataclass(frozen=True)
class Scenes(ABC):
    """
    Args:
        indices: rows of the pictures.
        classes: in the order of the labels.
    """

    pictures: Pictures
    indices: np.ndarray
    classes: tuple[str, ...]
    skipped: Skipped
    normalization: Normalization

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, position: int) -> Image.Image:
        return self.pictures.image(int(self.indices[position]))

    def name(self, position: int) -> str:
        return self.pictures.name(int(self.indices[position]))

    def at(self: S, rows: np.ndarray) -> S:
        """Other rows of the same pictures."""
        return replace(self, indices=rows)

    def spread(self: S, count: int) -> S:
        """`count` of the images, or all if there are fewer, evenly spaced."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)
        return self.at(self.indices[chosen])

    def with_classes(self: S, classes: Sequence[str], subject: str, remedy: str) -> S:
        """With labels as numbers of these classes, by name.

        Raises:
            UserError: "`subject` classes that …": it has others.
        """
        number = {name: i for i, name in enumerate(classes)}
        if unknown := [name for name in self.classes if name not in number]:
            raise UserError(
                f"{subject} classes that are not known ({some(unknown)}); known are {some(list(classes))}: {remedy}"
            )
        return self.renumbered(tuple(classes), np.array([number[name] for name in self.classes], dtype=np.int64))

    @abstractmethod
    def renumbered(self: S, classes: tuple[str, ...], numbers: np.ndarray) -> S:
        """The class of each number is another."""

    @property
    @abstractmethod
    def present(self) -> np.ndarray:
        """(n, classes) bool, which classes are on each image of the split."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Of all that was read, whatever the split."""


@dataclass(frozen=True)
class BoxScenes(Scenes):
    """Images with boxes; `boxes` has those of all rows."""

    boxes: Boxes

    def target(self, position: int) -> BoxTarget:
        return self.boxes.of(int(self.indices[position]))

    def renumbered(self, classes: tuple[str, ...], numbers: np.ndarray) -> BoxScenes:
        return replace(self, classes=classes, boxes=replace(self.boxes, labels=numbers[self.boxes.labels]))

    @property
    def present(self) -> np.ndarray:
        return self.boxes.present(len(self.classes))[self.indices]

    @property
    def digest(self) -> str:
        return self.pictures.source.digest() + self.boxes.digest()


class InstanceTarget(BoxTarget):
    """Also the mask of what is in each box, in pixels of the image."""

    masks: list[RunLengths]


@dataclass(frozen=True)
class InstanceScenes(BoxScenes):
    """Images with boxes, and a mask of the object in each.

    Args:
        masks: of all boxes, in their order.
    """

    masks: Sequence[RunLengths]

    def target(self, position: int) -> InstanceTarget:
        first, last = self.boxes.starts[self.indices[position] : self.indices[position] + 2]
        return {**super().target(position), "masks": list(self.masks[first:last])}

    @property
    def digest(self) -> str:
        counts = "\n".join(mask["counts"] for mask in self.masks)
        return super().digest + hashlib.sha256(counts.encode()).hexdigest()


@dataclass(frozen=True)
class MaskScenes(Scenes):
    """Images with a class for each pixel.

    Args:
        masks: of all rows, as indices.
        table: (256,) uint8, the class of each index; 255 where a pixel does not count.
    """

    masks: Masks
    table: np.ndarray

    def mask(self, position: int) -> np.ndarray:
        """(H, W) uint8 classes, 255 where a pixel does not count; raises CORRUPT."""
        return self.table[self.masks.of(int(self.indices[position]))]

    def renumbered(self, classes: tuple[str, ...], numbers: np.ndarray) -> MaskScenes:
        after = np.full(IGNORED + 1, IGNORED, dtype=np.uint8)
        after[: len(numbers)] = numbers
        return replace(self, classes=classes, table=after[self.table])

    @property
    def present(self) -> np.ndarray:
        found = self.masks.found[self.indices]
        return np.stack([found[:, self.table == i].any(axis=1) for i in range(len(self.classes))], axis=1)

    @property
    def digest(self) -> str:
        return f"{self.pictures.source.digest()}{self.masks.digest}{self.table.tobytes().hex()}"
