"""Test images with the boxes that are there and those that were found, to be shown in a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from nas.data.batches import normalize
from nas.data.pixels import CORRUPT, as_base64
from nas.detection.metric import Seen, seen
from nas.scenes import BoxScenes
from nas.scenes.batches import eval_scenes
from search_spaces.dense.ssdlite import SSDLite

COUNT, SIDE = 12, 480  # images; pixels at most


@dataclass(frozen=True)
class Example:
    """
    Args:
        jpeg: in base64, of the image, its sides at most 480 pixels.
        image: in whose pixels the boxes are.
    """

    name: str
    jpeg: str
    image: Seen


@torch.inference_mode()
def examples(network: SSDLite, scenes: BoxScenes, image_size: int) -> list[Example]:
    """A dozen images, evenly spaced over the split: chosen by nothing else. Corrupt ones are left out."""
    some, found = scenes.spread(COUNT), []
    device = next(network.parameters()).device
    for images, targets in eval_scenes(some, image_size, COUNT):
        answers = network.predict(normalize(images, device, scenes.normalization))
        found += [seen(*pair, image_size) for pair in zip(targets, answers, strict=True)]
    return [Example(some.name(i), jpeg, one) for i, one in enumerate(found) if (jpeg := _jpeg(some, i))]


def _jpeg(scenes: BoxScenes, position: int) -> str:
    """In base64; empty if the image is corrupt."""
    try:
        image: Any = scenes.image(position).convert("RGB")
    except CORRUPT:
        return ""
    return as_base64(image, SIDE, resample=Image.Resampling.LANCZOS)
