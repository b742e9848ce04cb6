"""Stand-alone networks with the weights of a supernet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas.batches import eval_batches, normalize
from nas.data import Images
from search_spaces import Arch
from supernet import Supernet, recalibrate

CALIBRATION_IMAGES = 2048


def default_calibration(supernet: Supernet) -> int:
    """Training images that the norms of an inherited network are recalibrated on: none if each width has its own."""
    return CALIBRATION_IMAGES if supernet.normalization == "shared" else 0


def calibration_batches(images: Images, image_size: int, count: int, device: torch.device) -> tuple[Tensor, ...]:
    """`count` of the (training) images, or all if there are fewer: normalized, channels last, in batches of 256."""
    if count == 0:
        return ()
    return tuple(normalize(batch, device) for batch, _ in eval_batches(images.spread(count), image_size, 256))


def inherited(supernet: Supernet, arch: Arch, calibration: Sequence[Tensor] = ()) -> nn.Module:
    """The network with its slice of the weights, in evaluation mode; its norms recalibrated on the batches, if any."""
    model = supernet.extract(arch).to(memory_format=torch.channels_last)
    return recalibrate(model, calibration) if calibration else model
