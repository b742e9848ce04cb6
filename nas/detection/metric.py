"""How well objects are found, as COCO counts: average precision, by faster-coco-eval, and what is taken for what.

https://cocodataset.org/#detection-eval: of each image the 100 surest boxes count; crowds, and what is found in them,
do not. What is said of boxes holds for masks where these are asked for: objects then have a `segmentation`, COCO's
packed run lengths.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from torch import Tensor

from nas.distributed import collectives, process
from nas.scenes.batches import EvalBoxes
from nas.scenes.run_lengths import coco_masks
from search_spaces.command import quiet
from search_spaces.command.typed import Count, Fraction

By = Literal["bbox", "segm"]  # COCO's words for what must overlap: boxes or masks
IOU = 0.5  # from which on a box is where an object is, for curves and confusion
BOXES = 100  # of an image and a class that count, the surest
RECALLS = 101  # of the curves, from 0 to 1
ALL, MOST, RECALL = 0, 2, 8  # COCO's places of objects of any size, of 100 boxes an image, and of their recall


class ClassFigures(TypedDict):
    """Of one class; None where no image has an object of it.

    Args:
        precision: at recalls 0, 0.01, … 1, of boxes with an IoU of 0.5; of larger recalls than were reached 0.
    """

    objects: Count
    ap: Fraction | None
    ap50: Fraction | None
    precision: list[Fraction] | None


class ObjectFigures(TypedDict):
    """What a detector reaches on a split; None where there are no objects of a size.

    Args:
        ap: mean over classes and the IoUs 0.50, 0.55, … 0.95; `ap50` and `ap75` at these alone.
        ap_small, ap_medium, ap_large: of objects of less than 32² pixels, up to 96², and more.
        recall: mean share of the objects that are found, over the same IoUs.
        score: from which on boxes are best shown: `f1`, that of all classes together at an IoU of 0.5, is highest.
        confusion: boxes of that score or more by the class of the object that they are on (`located`; rows) and their
            own (columns); the last row is of boxes on no object, the last column of objects without a box.
    """

    ap: Fraction
    ap50: Fraction
    ap75: Fraction
    ap_small: Fraction | None
    ap_medium: Fraction | None
    ap_large: Fraction | None
    recall: Fraction
    score: Fraction
    f1: Fraction
    per_class: list[ClassFigures]
    confusion: list[list[Count]]
    num_images: Count
    num_objects: Count


class Seen(TypedDict):
    """An image: its objects and what was found, as COCO's annotations and results without ids; `size` is (height,
    width)."""

    size: list[int]
    objects: list[dict[str, Any]]
    found: list[dict[str, Any]]


def seen(target: EvalBoxes, found: Mapping[str, Tensor], image_size: int) -> Seen:
    """
    Args:
        target, found: with boxes in an image of `image_size` pixels each way; in the result they are in its own.
    """
    height, width = target["size"].tolist()
    scale = np.array([width, height, width, height]) / image_size
    truth = _boxes(target["boxes"], scale)
    objects = [
        {"bbox": box, "category_id": label, "area": area, "iscrowd": int(crowd)}
        for box, label, area, crowd in zip(
            truth, *(target[name].tolist() for name in ("labels", "area", "iscrowd")), strict=True
        )
    ]
    boxes = _boxes(found["boxes"], scale)
    results = [
        {"bbox": box, "category_id": label, "score": score, "area": box[2] * box[3]}
        for box, label, score in zip(boxes, found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]
    return {"size": [height, width], "objects": objects, "found": results}


class Pair(NamedTuple):
    """An image's objects and what was found on it, both with boxes in an image of `image_size` pixels each way."""

    target: EvalBoxes
    found: Mapping[str, Tensor]
    image_size: int

    def seen(self) -> Seen:
        return seen(*self)


def _boxes(boxes: Tensor, scale: np.ndarray) -> list[list[float]]:
    """(n, 4) left, top, right, bottom to left, top, width, height in the image's own pixels."""
    scaled = boxes.cpu().numpy().astype(np.float64) * scale
    scaled[:, 2:] -= scaled[:, :2]
    return scaled.tolist()


def of_all_processes(images: list[Seen]) -> list[Seen]:
    """Those of all processes of a job, of which each has every so many-th image, in the order of the split."""
    parts = (
        [json.loads(part) for part in collectives.gather(json.dumps(images))] if process.world_size() > 1 else [images]
    )
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def figures(images: Sequence[Seen], num_classes: int, by: By = "bbox") -> ObjectFigures:
    """Of images of which one at least has an object, crowds aside."""
    with quiet():
        evaluation = _evaluation(_coco(images, num_classes, "objects"), _coco(images, num_classes, "found"), by)
        evaluation.run()
    ap, ap50, ap75, small, medium, large, _, _, recall = (
        None if s < 0 else float(s) for s in evaluation.stats[: RECALL + 1]
    )
    assert ap is not None and ap50 is not None and ap75 is not None and recall is not None, "there are no objects"
    counts = np.zeros(num_classes, dtype=np.int64)
    np.add.at(counts, [one["category_id"] for image in images for one in _counted(image)], 1)
    where = located(images, num_classes, by)
    score, f1 = _best_score(where, int(counts.sum()))
    precision = np.asarray(evaluation.eval["precision"])[..., ALL, MOST]  # (IoUs, recalls, classes)
    return {
        "ap": ap,
        "ap50": ap50,
        "ap75": ap75,
        "ap_small": small,
        "ap_medium": medium,
        "ap_large": large,
        "recall": recall,
        "score": score,
        "f1": f1,
        "per_class": [_of_class(precision[..., i], int(count)) for i, count in enumerate(counts)],
        "confusion": _confusion(where, counts, score).tolist(),
        "num_images": len(images),
        "num_objects": int(counts.sum()),
    }


def average_precisions(
    images: Sequence[Seen], num_classes: int, parts: Iterable[Sequence[int]], by: By = "bbox"
) -> list[float]:
    """`ap` alone, of each of some parts of the images, by their positions; 0 of one without objects.

    In a third of the time of `figures`: without COCO's other sizes and numbers of boxes.
    """
    found = []
    with quiet():
        objects, boxes = _coco(images, num_classes, "objects"), _coco(images, num_classes, "found")
        for part in parts:
            evaluation = _evaluation(objects, boxes, by)
            evaluation.params.imgIds = list(part)
            evaluation.params.areaRng, evaluation.params.maxDets = evaluation.params.areaRng[:1], [BOXES]
            evaluation.evaluate()
            evaluation.accumulate()
            precision = np.asarray(evaluation.eval["precision"])
            found.append(float(precision[precision > -1].mean()) if (precision > -1).any() else 0.0)
    return found


def _evaluation(objects: Any, found: Any, by: By) -> Any:
    from faster_coco_eval import COCOeval_faster

    return COCOeval_faster(objects, found, by)


def _counted(image: Seen) -> list[dict[str, Any]]:
    """Objects but crowds."""
    return [one for one in image["objects"] if not one["iscrowd"]]


def _coco(images: Sequence[Seen], num_classes: int, what: Literal["objects", "found"]) -> Any:
    """The objects or what was found, as they are read out of files; ids are from 1, since 0 means none."""
    from faster_coco_eval import COCO

    every = [(i, one) for i, image in enumerate(images) for one in image[what]]
    return COCO(
        {
            "images": [{"id": i, "height": one["size"][0], "width": one["size"][1]} for i, one in enumerate(images)],
            "annotations": [{"iscrowd": 0, **one, "id": n, "image_id": i} for n, (i, one) in enumerate(every, 1)],
            "categories": [{"id": i, "name": str(i)} for i in range(num_classes)],
        }
    )


def _of_class(precision: np.ndarray, objects: int) -> ClassFigures:
    """
    Args:
        precision: (IoUs, recalls).
    """
    if not objects:
        return {"objects": 0, "ap": None, "ap50": None, "precision": None}
    ap, curve = float(precision.mean()), precision[0]
    return {"objects": objects, "ap": ap, "ap50": float(curve.mean()), "precision": curve.tolist()}


# ---- what is taken for what


class Located(NamedTuple):
    """Boxes of all images, the surest first: their scores, classes, and those of the objects that they are on.

    On no object is the number of classes.
    """

    scores: np.ndarray
    classes: np.ndarray
    objects: np.ndarray


def located(images: Sequence[Seen], num_classes: int, by: By = "bbox") -> Located:
    """Which object each box is on: of an image the surest first, of the objects that are left the one with the highest
    IoU, from 0.5 on, whatever its class. One that is on none, but lies in a crowd, is left out."""
    rows = [row for image in images for row in _rows(image, num_classes, by)]
    scores, classes, objects = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    order = np.argsort(-scores, kind="stable")
    return Located(scores[order], classes[order].astype(np.int64), objects[order].astype(np.int64))


def _rows(image: Seen, num_classes: int, by: By) -> Iterator[tuple[float, int, int]]:
    """(score, class, class of the object) of each box."""
    objects, found = image["objects"], sorted(image["found"], key=lambda one: -one["score"])
    if not found:
        return
    crowds = np.array([one["iscrowd"] for one in objects], dtype=bool)
    left = ~crowds
    for box, overlap in zip(found, _overlaps(found, objects, by), strict=True):
        free = np.where(left, overlap, 0.0)
        if len(objects) and free.max() >= IOU:
            best = int(free.argmax())
            left[best] = False
            yield box["score"], box["category_id"], objects[best]["category_id"]
        elif not (overlap[crowds] >= IOU).any():
            yield box["score"], box["category_id"], num_classes


def _overlaps(found: Sequence[dict[str, Any]], objects: Sequence[dict[str, Any]], by: By) -> np.ndarray:
    """(found, objects) IoU; with a crowd, the share of the box that lies in it."""
    if not objects:
        return np.zeros((len(found), 0))
    crowds = [one["iscrowd"] for one in objects]
    if by == "segm":
        return np.asarray(
            coco_masks().iou(*([one["segmentation"] for one in ones] for ones in (found, objects)), crowds)
        )
    boxes = (np.array([one["bbox"] for one in ones], dtype=np.float64) for ones in (found, objects))
    return np.asarray(coco_masks().iou(*boxes, crowds))


def _best_score(where: Located, num_objects: int) -> tuple[float, float]:
    """The score from which on F1 is highest, and that F1."""
    if not len(where.scores):
        return 1.0, 0.0
    right = np.cumsum(where.classes == where.objects)
    f1 = 2 * right / (np.arange(1, len(right) + 1) + num_objects)
    f1[:-1][where.scores[:-1] == where.scores[1:]] = 0  # of equal scores all are shown
    best = int(f1.argmax())
    return float(where.scores[best]), float(f1[best])


def _confusion(where: Located, counts: np.ndarray, score: float) -> np.ndarray:
    """(num_classes + 1, num_classes + 1) as `ObjectFigures` has it.

    Args:
        counts: (num_classes,) objects.
    """
    shown = where.scores >= score
    found = np.zeros(2 * (len(counts) + 1,), dtype=np.int64)
    np.add.at(found, (where.objects[shown], where.classes[shown]), 1)
    found[:-1, -1] = counts - found[:-1].sum(axis=1)
    return found
