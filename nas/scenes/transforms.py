"""torchvision's joint transforms of an image and its boxes or mask, as its own training recipes have them.

https://github.com/pytorch/vision/tree/main/references: detection/presets.py ("ssd") and segmentation/presets.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from nas.data.splits import IMAGENET
from nas.scenes.masks import IGNORED

BoxAugment = Literal["ssd", "ssdlite", "light", "hflip", "none"]
MaskAugment = Literal["published", "light", "hflip", "none"]
Joint = Callable[..., Any]  # (image, what is on it) to both

FILL = [round(255 * mean) for mean in IMAGENET.mean]  # beside the image
SCALES = (0.5, 2.0)  # of DeepLab's training, as multiples of the crop
LEAST_CROPPED = 4  # pixels a side: RandomIoUCrop's smallest crop, 0.3 of a side, has none of a smaller one


def box_train_transform(image_size: int, augment: BoxAugment) -> Joint:
    """(image, {"boxes", "labels"}) to a uint8 image (3, image_size, image_size) and its boxes there, masks too.

    `ssd` distorts colours, zooms out, crops around boxes and flips, each by chance; `ssdlite` crops and flips; `hflip`
    flips. Boxes whose centre is cropped away are left out. `light` only crops, 70 % or more of the image, whatever is
    there: it is quick.
    """
    if augment == "light":
        return v2.Compose([v2.ToImage(), _light_crop(image_size), v2.SanitizeBoundingBoxes()])
    zoom = [v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=FILL)] if augment == "ssd" else []
    crop = [_CropAroundBoxes()] if augment in ("ssd", "ssdlite") else []
    flip = [] if augment == "none" else [v2.RandomHorizontalFlip()]
    return v2.Compose([v2.ToImage(), *zoom, *crop, *flip, _square(image_size), v2.SanitizeBoundingBoxes()])


def mask_train_transform(image_size: int, augment: MaskAugment) -> Joint:
    """(image, mask) to a uint8 image (3, image_size, image_size) and its mask.

    `published` resizes the shorter side to 0.5 to 2 times `image_size`, flips and crops; what is beside the image does
    not count. `light` crops 70 % or more of the image; `hflip` resizes to the square, and flips.
    """
    if augment == "none":
        return eval_transform(image_size)
    if augment == "light":
        return v2.Compose([v2.ToImage(), _light_crop(image_size)])
    flip = v2.RandomHorizontalFlip()
    if augment == "hflip":
        return v2.Compose([v2.ToImage(), flip, _square(image_size)])
    least, most = (round(image_size * scale) for scale in SCALES)
    fill = {tv_tensors.Image: FILL, tv_tensors.Mask: IGNORED}
    crop = v2.RandomCrop(image_size, pad_if_needed=True, fill=fill)
    return v2.Compose([v2.ToImage(), v2.RandomResize(least, most), flip, crop])


def eval_transform(image_size: int) -> Joint:
    """(image, what is on it) to a uint8 image (3, image_size, image_size) and what is on it, resized alike."""
    return v2.Compose([v2.ToImage(), _square(image_size)])


def _light_crop(image_size: int) -> v2.Transform:
    """70 % of an image or more, whatever is there, to the square."""
    return v2.RandomResizedCrop(image_size, scale=(0.7, 1.0), ratio=(0.8, 1.25), antialias=True)


def _square(image_size: int) -> v2.Transform:
    """Bilinear, antialiased; masks by the nearest pixel."""
    return v2.Resize((image_size, image_size), antialias=True)


class _CropAroundBoxes(v2.RandomIoUCrop):  # type: ignore[misc]
    """SSD's crop; left as they are images without boxes, for which torchvision draws hundreds in vain, and those with a
    side under LEAST_CROPPED."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        boxes = (one for one in flat_inputs if isinstance(one, tv_tensors.BoundingBoxes))
        may = any(len(one) and min(one.canvas_size) >= LEAST_CROPPED for one in boxes)
        return super().make_params(flat_inputs) if may else {}


def shrunk(image: Image.Image, longest: int) -> Image.Image:
    """The image; if its longer side has more than `longest` pixels, a smaller one of that side, antialiased."""
    share = longest / max(image.size)
    if share >= 1:
        return image
    width, height = (max(1, round(side * share)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def as_boxes(boxes: np.ndarray, size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    """(n, 4) float32 boxes (left, top, right, bottom) in pixels of an image of that (width, height)."""
    width, height = size
    kind = tv_tensors.BoundingBoxFormat.XYXY
    return tv_tensors.BoundingBoxes(torch.tensor(boxes).reshape(-1, 4), format=kind, canvas_size=(height, width))
