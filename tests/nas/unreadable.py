"""Images of which some cannot be read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nas.data import Images
from nas.data.sources import Decoded, Skipped


@dataclass(frozen=True)
class _Broken(Decoded):
    positions: Collection[int] = ()

    def image(self, position: int) -> Image.Image:
        if position in self.positions:
            raise OSError("no image")
        return super().image(position)


def unreadable(images: Images, count: int, positions: Collection[int]) -> Images:
    """So many of the images, again and again if there are fewer, without those at these positions."""
    rows = np.resize(np.arange(len(images)), count)
    pixels, labels = [np.asarray(images.image(int(row))) for row in rows], images.labels[rows]
    source = _Broken(pixels, labels, images.source.classes, "", positions=positions)
    return Images(source, np.arange(count), labels, Skipped(strict=False), images.normalization)
