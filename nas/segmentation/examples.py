"""Test images beside their masks and what a segmenter makes of them, small enough to be shown in a page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn

from nas.data.batches import normalize
from nas.data.pixels import as_base64
from nas.scenes import MaskScenes
from nas.scenes.batches import eval_scenes
from nas.segmentation.colours import palette
from nas.segmentation.metric import PixelConfusion, class_map

COUNT, SIDE = 12, 240  # pixels of a picture's longer side, at most


@dataclass(frozen=True)
class Example:
    """
    Args:
        photo, truth, predicted: PNG in base64.
        correct: share of the pixels that count.
    """

    name: str
    photo: str
    truth: str
    predicted: str
    correct: float


@torch.inference_mode()
def examples(network: nn.Module, scenes: MaskScenes, image_size: int) -> list[Example]:
    """Of a dozen images, evenly spaced over the split and chosen by nothing else; none of those without a known pixel.

    Args:
        network: in evaluation mode, on the CPU.
    """
    chosen = scenes.spread(COUNT)
    found = []
    batches = eval_scenes(chosen, image_size, 1)
    for i, (images, (mask,)) in enumerate(batches):
        counts = PixelConfusion(len(scenes.classes))
        logits = network(normalize(images, torch.device("cpu"), scenes.normalization))[0]
        predicted = class_map(logits, (mask.shape[0], mask.shape[1]))
        counts.add(predicted, mask)
        if not counts.counts.any():
            continue
        photo = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((mask.shape[1], mask.shape[0]))
        maps = [_coloured(one.numpy().astype(np.uint8), len(scenes.classes)) for one in (mask, predicted)]
        photo_png, truth, answer = (_png(image) for image in (photo, *maps))
        found.append(Example(chosen.name(i), photo_png, truth, answer, counts.pixel_accuracy))
    return found


def _coloured(classes: np.ndarray, num_classes: int) -> Image.Image:
    """(H, W) uint8 classes as an image with a palette."""
    image = Image.fromarray(classes, mode="P")
    image.putpalette(palette(num_classes))
    return image


def _png(image: Image.Image) -> str:
    """In base64; classes keep theirs where the picture is made smaller."""
    return as_base64(image, SIDE, "PNG", Image.Resampling.NEAREST if image.mode == "P" else Image.Resampling.BICUBIC)
