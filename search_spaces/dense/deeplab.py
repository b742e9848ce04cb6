"""DeepLabv3 over a backbone, as published with MobileViT: atrous spatial pyramid pooling and one 1x1 convolution.

Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017 (arXiv:1706.05587), Section 3.3; Mehta
and Rastegari, MobileViT, ICLR 2022, Section 4.2.2 and Appendix D. Sizes are those that give the paper's numbers of
parameters (apple/ml-cvnets, `cvnets/models/segmentation/heads/deeplabv3.py`); the pyramid is torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from search_spaces.dense.backbone import Backbone
from search_spaces.dense.plans import PYRAMID_CHANNELS, rates

DROPOUT = 0.1
IGNORED: Final = 255  # of masks: pixels that count nowhere


class Pixels(nn.Module):
    """What DeepLabv3's raw outputs, logits (B, num_classes, S, S) of each pixel, mean: their loss, and class maps."""

    def raw(self, state: Tensor) -> Tensor:
        """Raw outputs of what the last block of a network's chain gives: these."""
        return state

    def loss(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """Mean cross-entropy of the pixels that are not ignored; 0 if all are.

        Args:
            masks: (B, S, S) classes from 0 as int64, or 255.
        """
        total = F.cross_entropy(outputs.float(), masks, ignore_index=IGNORED, reduction="sum")
        return total / (masks != IGNORED).sum().clamp(min=1)

    @torch.no_grad()
    def decode(self, outputs: Tensor) -> Tensor:
        """(B, S, S) the class of each pixel, from 0."""
        return outputs.argmax(dim=1)


class DeepLabV3(Pixels):
    """(B, 3, S, S) images to raw outputs, of which it is asked what they mean.

    While it trains, a batch has two images or more: the pooled image is normalized.

    Args:
        backbone: best of output stride 16, as published. Its last map is taken; where that is coarser or finer, the
            rates reach as far in pixels.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        self.aspp = pyramid(backbone.channels[-1], rates(backbone.strides[-1]))
        self.classifier = PixelClassifier(num_classes, backbone.image_size)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.aspp(self.backbone(images)[-1]))
        return logits

    def predict(self, images: Tensor) -> Tensor:
        """As `decode`, of images."""
        return self.decode(self(images))


def pyramid(before: int, rates: Sequence[int]) -> nn.Module:
    """(B, before, R, R) to (B, 256, R, R)."""
    module = ASPP(before, list(rates), PYRAMID_CHANNELS)
    module.project[-1] = nn.Dropout(DROPOUT)
    return module


class PixelClassifier(nn.Conv2d):
    """(B, 256, R, R) to logits (B, num_classes, image_size, image_size)."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__(PYRAMID_CHANNELS, num_classes, 1)
        self.image_size = image_size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(super().forward(x), 2 * (self.image_size,), mode="bilinear", align_corners=False)
