"""How well objects are found, as COCO counts: average precision, by pycocotools, and what is taken for what.

https://cocodataset.org/#detection-eval: of each image the 100 surest boxes count; crowds, and what is found in them,
do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from nas.distributed import collectives, process
from nas.scenes.batches import EvalBoxes
from search_spaces.command import quiet
from search_spaces.command.typed import Count, Fraction

IOU = 0.5  # from which on a box is where an object is, for curves and confusion
RECALLS = 101  # of the curves, from 0 to 1
ALL, MOST = 0, 2  # COCO's places of objects of any size, and of 100 boxes an image


class ClassFigures(TypedDict):
    """Of one class; None where no image has an object of it.

    Args:
        precision: at recalls 0, 0.01, … 1, of boxes with an IoU of 0.5; of larger recalls than were reached 0.
    """

    objects: Count
    ap: Fraction | None
    ap50: Fraction | None
    precision: list[Fraction] | None


class BoxFigures(TypedDict):
    """What a detector reaches on a split; None where there are no objects of a size.

    Args:
        ap: mean over classes and the IoUs 0.50, 0.55, … 0.95; `ap50` and `ap75` at these alone.
        ap_small, ap_medium, ap_large: of objects of less than 32² pixels, up to 96², and more.
        recall: mean share of the objects that are found, over the same IoUs.
        score: from which on boxes are best shown: at an IoU of 0.5 the F1 of all classes together, `f1`, is highest.
        confusion: boxes of that score or more by the class of their object (rows) and their own (columns), whatever
            that is; the last row is of boxes on no object, the last column of objects without a box.
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


def figures(images: Sequence[Seen], num_classes: int) -> BoxFigures:
    """Of images of which one at least has an object, crowds aside."""
    with quiet():
        evaluation = COCOeval(_coco(images, num_classes, "objects"), _coco(images, num_classes, "found"), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ap75, small, medium, large, _, _, recall, *_ = (None if s < 0 else float(s) for s in evaluation.stats)
    assert ap is not None and ap50 is not None and ap75 is not None and recall is not None, "there are no objects"
    counts = np.bincount(
        [one["category_id"] for image in images for one in image["objects"] if not one["iscrowd"]],
        minlength=num_classes,
    )
    score, f1 = _best_score(evaluation)
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
        "per_class": [_of_class(evaluation, i, int(count)) for i, count in enumerate(counts)],
        "confusion": confusion(images, num_classes, score).tolist(),
        "num_images": len(images),
        "num_objects": int(counts.sum()),
    }


def _coco(images: Sequence[Seen], num_classes: int, what: str) -> COCO:
    """The objects or what was found, as pycocotools reads them out of files; ids are from 1, since 0 means none."""
    every = [(i, one) for i, image in enumerate(images) for one in image[what]]  # type: ignore[literal-required]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": image["size"][0], "width": image["size"][1]} for i, image in enumerate(images)],
        "annotations": [{"iscrowd": 0, **one, "id": n, "image_id": i} for n, (i, one) in enumerate(every, 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(num_classes)],
    }
    coco.createIndex()
    return coco


def _of_class(evaluation: COCOeval, number: int, objects: int) -> ClassFigures:
    precision = evaluation.eval["precision"][:, :, number, ALL, MOST]  # (IoUs, recalls)
    if not objects:
        return {"objects": 0, "ap": None, "ap50": None, "precision": None}
    curve = precision[0]
    return {"objects": objects, "ap": float(precision.mean()), "ap50": float(curve.mean()), "precision": curve.tolist()}


def _best_score(evaluation: COCOeval) -> tuple[float, float]:
    """The score from which on F1 is highest at an IoU of 0.5, and that F1."""
    everywhere = evaluation.params.areaRng[ALL]
    parts = [part for part in evaluation.evalImgs if part is not None and part["aRng"] == everywhere]
    objects = sum(int((1 - np.asarray(part["gtIgnore"])).sum()) for part in parts)
    counted = [~part["dtIgnore"][0].astype(bool) for part in parts]
    scores = np.concatenate([np.asarray(part["dtScores"])[c] for part, c in zip(parts, counted, strict=True)])
    right = np.concatenate([part["dtMatches"][0][c] > 0 for part, c in zip(parts, counted, strict=True)])
    if not len(scores):
        return 1.0, 0.0
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + objects)
    f1[:-1][scores[order][:-1] == scores[order][1:]] = 0  # of equal scores all are shown
    best = int(f1.argmax())
    return float(scores[order][best]), float(f1[best])


def confusion(images: Sequence[Seen], num_classes: int, score: float) -> np.ndarray:
    """(num_classes + 1, num_classes + 1) as `BoxFigures` has it: each box, the surest first, takes of the objects that
    are left the one with the highest IoU, from 0.5 on; one that takes none, but lies in a crowd, is not counted."""
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in images:
        objects = image["objects"]
        shown = sorted((one for one in image["found"] if one["score"] >= score), key=lambda one: -one["score"])
        crowds = np.array([one["iscrowd"] for one in objects], dtype=bool)
        left = ~crowds
        overlaps = _overlaps(shown, objects)
        for box, overlap in zip(shown, overlaps, strict=True):
            free = np.where(left, overlap, 0.0)
            if len(objects) and free.max() >= IOU:
                best = int(free.argmax())
                left[best] = False
                counts[objects[best]["category_id"], box["category_id"]] += 1
            elif not (overlap[crowds] >= IOU).any():
                counts[num_classes, box["category_id"]] += 1
        for i in np.flatnonzero(left):
            counts[objects[i]["category_id"], num_classes] += 1
    return counts


def _overlaps(found: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(found, objects) IoU; with a crowd, the share of the box that lies in it."""
    if not found or not objects:
        return np.zeros((len(found), len(objects)))
    boxes = ([one["bbox"] for one in ones] for ones in (found, objects))
    return np.asarray(coco_masks.iou(*boxes, [one["iscrowd"] for one in objects]))
