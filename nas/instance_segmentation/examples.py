"""Test images with the masks that are there and those that were found, to be shown in a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from nas.data.batches import normalize
from nas.data.pixels import CORRUPT, as_base64
from nas.detection.examples import COUNT, SIDE
from nas.detection.metric import Seen
from nas.instance_segmentation.metric import seen
from nas.scenes import InstanceScenes
from nas.scenes.batches import eval_scenes
from nas.scenes.run_lengths import unpacked
from nas.segmentation.colours import colours
from search_spaces.dense.maskrcnn import MaskRCNN

OPAQUE = 0.6


@dataclass(frozen=True)
class Example:
    """
    Args:
        there, found: JPEG in base64, of the image with masks painted over it, its sides at most 480 pixels.
        image: in whose pixels the boxes are; only what was found with a score that is shown.
    """

    name: str
    there: str
    found: str
    image: Seen


@torch.inference_mode()
def examples(network: MaskRCNN, scenes: InstanceScenes, image_size: int, score: float) -> list[Example]:
    """A dozen images, evenly spaced over the split: chosen by nothing else. Corrupt ones are left out.

    Args:
        network: in evaluation mode.
        score: of what is shown, at least.
    """
    some, shown = scenes.spread(COUNT), []
    device = next(network.parameters()).device
    for i, (images, (target,)) in enumerate(eval_scenes(some, image_size, 1)):
        answer = network.predict(normalize(images, device, scenes.normalization))[0]
        image = seen(target, answer, image_size)
        image = {**image, "found": [one for one in image["found"] if one["score"] >= score]}
        try:
            picture = np.asarray(some.image(i).convert("RGB"))
        except CORRUPT:
            continue
        there, found = (_painted(picture, ones) for ones in (image["objects"], image["found"]))
        shown.append(Example(some.name(i), there, found, image))
    return shown


def _painted(picture: np.ndarray, ones: Sequence[dict[str, Any]]) -> str:
    """The picture, (H, W, 3) uint8, with each mask in a colour of its own, the first, which are the surest, on top."""
    painted = picture.astype(np.float32)
    masks = unpacked([one["segmentation"] for one in ones], (picture.shape[0], picture.shape[1])).astype(bool)
    for mask, colour in reversed(list(zip(masks, colours(1 + len(ones))[1:], strict=True))):
        painted[mask] = (1 - OPAQUE) * picture[mask] + OPAQUE * colour
    return as_base64(Image.fromarray(painted.round().astype(np.uint8)), SIDE, resample=Image.Resampling.LANCZOS)
