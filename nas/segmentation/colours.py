"""Colours of classes: those of PASCAL VOC's masks, of which any two differ."""

from __future__ import annotations

import numpy as np

from nas.scenes.masks import IGNORED

BORDER = (224, 224, 192)  # PASCAL VOC's, of pixels that do not count


def colours(num_classes: int) -> np.ndarray:
    """(num_classes, 3) uint8 RGB, the first black.

    A class's three lowest bits are the highest of its red, green and blue, the next three the next ones (VOCdevkit,
    `VOCcode/VOClabelcolormap.m`).
    """
    numbers, bits = np.arange(num_classes)[:, None], np.arange(3)
    found = np.zeros((num_classes, 3), dtype=np.uint8)
    for place in range(3):
        found |= (((numbers >> (3 * place + bits)) & 1) << (7 - place)).astype(np.uint8)
    return found


def palette(num_classes: int) -> list[int]:
    """768 numbers, as Pillow takes the RGB of 256 indices: of the classes, and of what does not count."""
    found = np.zeros((IGNORED + 1, 3), dtype=np.uint8)
    found[:num_classes] = colours(num_classes)
    found[IGNORED] = BORDER
    return [int(number) for number in found.ravel()]
