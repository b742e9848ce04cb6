"""The range of an activation in int8, of the extremes that it has on each calibration image."""

from __future__ import annotations

import numpy as np

ONE_IN = 50


def spanned(least: np.ndarray, largest: np.ndarray) -> tuple[float, float]:
    """From the least to the largest value of all images but one in fifty at each end; of all, if they are fewer.

    A network that is not bounded as by ReLU6 answers a rare image with values many times those of all others, and an
    int8 grid over these has but a few steps for the others. The largest MobileOne of the nano space lost 14.5 points
    of accuracy with the ranges of all of 256 images. Means over the images, the other extreme, lost 2 points of others.

    Args:
        least: (images,) of each image.
        largest: likewise.
    """
    left_out = len(least) // ONE_IN
    return float(np.sort(least)[left_out]), float(np.sort(largest)[len(largest) - 1 - left_out])
