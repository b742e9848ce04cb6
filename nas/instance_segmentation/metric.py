"""How well objects are outlined, as COCO counts: the figures of boxes (`nas.detection.metric`), by masks and by boxes.

Masks are compared in the pixels of the images as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import roi_heads

from nas.detection import metric
from nas.detection.metric import ObjectFigures, Seen
from nas.scenes.batches import EvalInstances
from nas.scenes.run_lengths import RunLengths, coco_masks, placed

INSIDE = 0.5  # how likely a pixel of a mask is of its object, at least


class InstanceFigures(ObjectFigures):
    """By masks.

    Args:
        boxes: by boxes.
    """

    boxes: ObjectFigures


def seen(target: EvalInstances, found: Mapping[str, Tensor], image_size: int) -> Seen:
    """As `nas.detection.metric.seen`, with masks.

    Args:
        found: also masks (n, M, M) of what is in the boxes.
    """
    image = metric.seen(target, found, image_size)
    height, width = image["size"]
    boxes = found["boxes"].cpu() * torch.tensor([width, height, width, height]) / image_size
    outlines = outlined(found["masks"].cpu(), boxes, (height, width))
    return {
        "size": image["size"],
        "objects": _with_masks(image["objects"], target["masks"]),
        "found": _with_masks(image["found"], outlines),
    }


def outlined(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[RunLengths]:
    """What masks cover of an image of that (height, width): torchvision's `paste_masks_in_image`, of each box's part of
    the image alone.

    Args:
        masks: (n, M, M) probabilities, of what is in boxes (n, 4) in its pixels.
    """
    padded, scale = roi_heads.expand_masks(masks[:, None], padding=1)
    around = roi_heads.expand_boxes(boxes, scale).long()
    return [_outlined(mask, box, size) for mask, box in zip(padded[:, 0], around, strict=True)]


def _outlined(mask: Tensor, box: Tensor, size: tuple[int, int]) -> RunLengths:
    """What a mask covers of a box (4,) int64, whose last column and row are inside.

    Pasted on a whole photo, an object would take a third of a second.
    """
    (left, top), (right, bottom) = (corner.tolist() for corner in (box[:2].clamp(min=0), box[2:] + 1))
    height, width = min(bottom, size[0]) - top, min(right, size[1]) - left
    inside = roi_heads.paste_mask_in_image(mask, box - torch.tensor([left, top, left, top]), height, width) > INSIDE
    return placed(inside.numpy(), left, top, size)


def _with_masks(ones: Sequence[dict[str, Any]], masks: Sequence[RunLengths]) -> list[dict[str, Any]]:
    return [{**one, "segmentation": mask} for one, mask in zip(ones, masks, strict=True)]


def figures(images: Sequence[Seen], num_classes: int) -> InstanceFigures:
    """Of images of which one at least has an object, crowds aside."""
    by_masks: list[Seen] = [{**image, "found": list(map(_of_mask, image["found"]))} for image in images]
    return {**metric.figures(by_masks, num_classes, "segm"), "boxes": metric.figures(images, num_classes)}


def _of_mask(found: dict[str, Any]) -> dict[str, Any]:
    """With its mask's area, which says whether it is small."""
    return {**found, "area": float(coco_masks().area([found["segmentation"]])[0])}
