"""What a runtime's int8 makes of images unlike those that it is calibrated on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from latency_lut.backends.base import FileBackend, Job
from latency_lut.backends.ranges import ONE_IN


def errors_of_rare_images(
    backend: FileBackend, path: Path, output: Callable[[Path, np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """Of a convolution in int8, as shares of the largest value: for images ten and a hundred times as large as the
    other 58 that it is calibrated on."""
    image = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    images = [100 * image, 10 * image, *[image] * (ONE_IN + 8)]
    job = Job((3, 8, 8), lambda: nn.Conv2d(3, 8, 3), images=images, float_ends=True)
    backend.export(job, path)
    with torch.no_grad():
        ten, hundred = (
            float(np.abs(output(path, x) - (y := job.module()(torch.from_numpy(x)).numpy())).max() / np.abs(y).max())
            for x in (images[1], images[0])
        )
    return ten, hundred
