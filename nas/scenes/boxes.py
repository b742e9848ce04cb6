"""Boxes of a set of images: within their images, in pixels, with their classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from nas.scenes.formats.coco import CocoAnnotation, Matched, tell
from search_spaces import UserError


class BoxTarget(TypedDict):
    """Of one image: boxes (n, 4) float32 (left, top, right, bottom) in pixels, labels (n,) int64 from 0, iscrowd (n,)
    bool (many objects in one box, or ones that do not count), area (n,) float32 in pixels, of the mask where known."""

    boxes: np.ndarray
    labels: np.ndarray
    iscrowd: np.ndarray
    area: np.ndarray


@dataclass(frozen=True)
class Boxes:
    """Those of one image after those of another, as `BoxTarget` has them.

    Args:
        starts: (images + 1,) the first box of each image, and how many there are.
    """

    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    iscrowd: np.ndarray
    area: np.ndarray

    def of(self, row: int) -> BoxTarget:
        part = slice(self.starts[row], self.starts[row + 1])
        return {
            "boxes": self.boxes[part],
            "labels": self.labels[part],
            "iscrowd": self.iscrowd[part],
            "area": self.area[part],
        }

    @property
    def rows(self) -> np.ndarray:
        """(boxes,) the image of each."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def present(self, num_classes: int) -> np.ndarray:
        """(images, classes) whether an image has a box of a class, crowds aside."""
        found = np.zeros((len(self.starts) - 1, num_classes), dtype=bool)
        counted = ~self.iscrowd
        found[self.rows[counted], self.labels[counted]] = True
        return found

    def digest(self) -> str:
        arrays = (self.starts, self.boxes, self.labels, self.iscrowd, self.area)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def boxes_of(found: Matched, paths: tuple[str, ...]) -> tuple[Boxes, np.ndarray]:
    """The boxes of these images, and (bool) of which objects they are.

    What lies outside an image is cut off; boxes without an area there are left out. One line tells how many.

    Raises:
        UserError: an annotation without a box.
    """
    objects = [one for path in paths for one in found.objects[path]]
    counts = np.array([len(found.objects[path]) for path in paths], dtype=np.int64)
    given = np.array([_bbox(one, found.where) for one in objects], dtype=np.float64).reshape(-1, 4)
    given[:, 2:] += given[:, :2]
    bounds = np.repeat(np.array([found.sizes[path] * 2 for path in paths]).reshape(-1, 4), counts, axis=0)
    boxes = given.clip(0, bounds).astype(np.float32)
    flat = (given[:, 2:] <= given[:, :2]).any(axis=1)
    kept = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    crowds = np.array([bool(one.get("iscrowd", 0)) for one in objects], dtype=bool)
    cut = kept & (np.abs(boxes - given) >= 1).any(axis=1)
    rows = np.repeat(np.arange(len(paths)), counts)[kept]
    without = len(paths) - len(np.unique(rows))
    tell(
        found.where,
        {
            "left out {} boxes of no area": int(flat.sum()),
            "left out {} boxes outside their image": int((~kept & ~flat).sum()),
            "cut {} boxes at the border of their image": int(cut.sum()),
            "{} boxes are crowds, which are not trained on": int((kept & crowds).sum()),
            "{} images have no box": without,
        },
    )
    sides = boxes[:, 2:] - boxes[:, :2]
    area = np.array([one.get("area", side[0] * side[1]) for one, side in zip(objects, sides, strict=True)])
    placed = Boxes(
        np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(paths)))]).astype(np.int64),
        boxes[kept],
        np.array([found.labels[one["category_id"]] for one in objects], dtype=np.int64)[kept],
        crowds[kept],
        area.astype(np.float32)[kept],
    )
    return placed, kept


def _bbox(one: CocoAnnotation, where: str) -> list[float]:
    if "bbox" not in one:
        raise UserError(f"{where} has objects without a bbox (left, top, width, height); add it to each")
    return one["bbox"]
