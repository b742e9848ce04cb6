"""Masks of COCO's objects: polygons, run lengths (as numbers or packed) and crowds; one each, or painted as one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from nas.data.classes import shown
from nas.scenes.formats.coco import CocoAnnotation, Matched, Size, tell
from nas.scenes.masks import IGNORED, Meaning
from nas.scenes.run_lengths import RunLengths, as_text, coco_masks, is_whole, packed, unpacked
from search_spaces import UserError

BACKGROUND = "background"


@dataclass(frozen=True)
class Polygons:
    """Masks painted when asked for: 0 is background, 1 the first class of the annotations.

    A pixel of two classes does not count, as in torchvision's recipe; nor does the box of an object without a mask.

    Args:
        sizes: (width, height) of each row.
        objects: of each row.
        labels: of the categories' ids, from 0.
    """

    sizes: Sequence[Size]
    objects: Sequence[Sequence[CocoAnnotation]]
    labels: Mapping[int, int]
    digest: str

    @cached_property
    def found(self) -> np.ndarray:
        """As the annotations say; what is hidden wholly by another class is not looked for."""
        found = np.zeros((len(self.objects), IGNORED + 1), dtype=bool)
        found[:, 0] = True
        for row, objects in enumerate(self.objects):
            found[row, [self.labels[one["category_id"]] + 1 for one in objects if _kind(one) is not None]] = True
        return found

    def of(self, row: int) -> np.ndarray:
        width, height = self.sizes[row]
        painted = np.zeros((height, width), dtype=np.uint8)
        for one in self.objects[row]:
            index = IGNORED if _kind(one) is None else self.labels[one["category_id"]] + 1
            inside = unpacked([_run_lengths(one, width, height)], (height, width))[0].astype(bool)
            clash = inside & (painted != 0) & (painted != index)
            painted[inside] = index
            painted[clash] = IGNORED
        return painted


def polygons_of(found: Matched, paths: tuple[str, ...], digest: str) -> tuple[Polygons, Meaning]:
    """The masks of these images, and what their indices mean. One line tells of crowds, and of what has no mask.

    Args:
        digest: of the annotations.

    Raises:
        UserError: a category named background; more categories than indices; polygons or run lengths that are none.
    """
    classes = (BACKGROUND, *found.classes)
    if BACKGROUND in found.classes or len(classes) > IGNORED:
        raise UserError(
            f"{found.where} has {len(found.classes)} categories; give up to {IGNORED - 1}, and none that is named "
            f"{BACKGROUND}: so is what no object covers"
        )
    _check(found, paths)
    objects = [found.objects[path] for path in paths]
    every = [one for of in objects for one in of]
    kinds = Counter(map(_kind, every))
    counts = {
        "{} objects are crowds": sum(one.get("iscrowd", 0) for one in every),
        "{} objects are run lengths among polygons": kinds["run lengths"] if kinds["polygons"] else 0,
        "{} objects have no mask, so their boxes are ignored": kinds[None],
        "{} images have no object": sum(not of for of in objects),
    }
    tell(found.where, counts)
    table = np.full(IGNORED + 1, IGNORED, dtype=np.uint8)
    table[: len(classes)] = np.arange(len(classes))
    sizes = [found.sizes[path] for path in paths]
    return Polygons(sizes, objects, found.labels, digest), Meaning(classes, table)


def outlined(found: Matched, paths: tuple[str, ...]) -> tuple[Matched, list[RunLengths]]:
    """What is known of these images, and the mask of each object, one image's after those of another.

    A box or an area that is not given is that of the mask. An object without a mask is a crowd, for whose box nobody
    can say what is inside; one line tells how many.

    Raises:
        UserError: no object has a mask; polygons or run lengths that are none.
    """
    _check(found, paths)
    objects: dict[str, list[CocoAnnotation]] = {path: [] for path in paths}
    masks: list[RunLengths] = []
    without = 0
    for path in paths:
        for one in found.objects[path]:
            mask = _run_lengths(one, *found.sizes[path])
            if _kind(one) is not None and (area := float(coco_masks().area([mask])[0])):
                box = coco_masks().toBbox([mask])[0].tolist()
                objects[path].append({**one, "bbox": one.get("bbox", box), "area": one.get("area", area)})
                masks.append(mask)
                continue
            without += 1
            if "bbox" in one:
                objects[path].append({**one, "iscrowd": 1})
                masks.append(_of_box(one, *found.sizes[path]))
    if without and not any(_kind(one) for path in paths for one in found.objects[path]):
        raise UserError(
            f"no object of {found.where} has a mask (a segmentation, polygons or run lengths); give annotations that "
            "have, or train on boxes alone by nas.detect"
        )
    tell(found.where, {"{} objects have no mask, so their boxes are crowds": without})
    return replace(found, objects=objects), masks


def _check(found: Matched, paths: tuple[str, ...]) -> None:
    """UserError if a segmentation is none."""
    for path in paths:
        for one in found.objects[path]:
            if problem := _problem(one.get("segmentation"), found.sizes[path]):
                raise UserError(f"{found.where} has an object on {shown(path)} whose segmentation {problem}; mend it")


def _kind(one: CocoAnnotation) -> str | None:
    """How its mask is given; None if it has none."""
    given = one.get("segmentation")
    if isinstance(given, dict):
        return "run lengths"
    return "polygons" if given and _rings(given) else None


def _rings(polygons: list[list[float]]) -> list[list[float]]:
    """Polygons of an area: a line has none, and the library takes four numbers for a box."""
    return [ring for ring in polygons if len(ring) >= 6]


def _problem(given: Any, size: Size) -> str | None:
    if not given:
        return None
    if isinstance(given, list):
        good = all(isinstance(ring, list) and len(ring) % 2 == 0 and all(map(_is_number, ring)) for ring in given)
        return None if good else "is no list of polygons, each x, y, x, y, …"
    if not isinstance(given, dict) or not isinstance(given.get("counts"), list | str):
        return "is neither polygons nor run lengths"
    if given.get("size") != [size[1], size[0]]:
        return f"is of {given.get('size')} pixels (height, width), where the image has {[size[1], size[0]]}"
    counts = given["counts"]
    if isinstance(counts, list) and not (all(map(_is_count, counts)) and sum(counts) == size[0] * size[1]):
        return "has run lengths that do not add up to its pixels"
    if isinstance(counts, str) and not is_whole({"size": given["size"], "counts": counts}):
        return "has packed run lengths that are damaged, or do not add up to its pixels"
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _run_lengths(one: CocoAnnotation, width: int, height: int) -> RunLengths:
    """The pixels of an object; of one without a mask those of its box, if it has one."""
    given: Any = one.get("segmentation")
    if (kind := _kind(one)) is None:
        return _of_box(one, width, height)
    if kind == "polygons":
        runs = coco_masks().frPyObjects(_rings(given), height, width)
    elif isinstance(given["counts"], list):
        runs = [coco_masks().frPyObjects(given, height, width)]
    else:
        runs = [{"size": given["size"], "counts": given["counts"].encode()}]
    return as_text(coco_masks().merge(runs))


def _of_box(one: CocoAnnotation, width: int, height: int) -> RunLengths:
    if "bbox" not in one:
        return packed(np.zeros((1, height, width)))[0]
    return as_text(coco_masks().frPyObjects([one["bbox"]], height, width)[0])
