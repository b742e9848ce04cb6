"""DeepLabv3 over a backbone, as published with MobileViT: atrous spatial pyramid pooling and one 1x1 convolution.

Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017 (arXiv:1706.05587), Section 3.3; Mehta
and Rastegari, MobileViT, ICLR 2022, Section 4.2.2 and Appendix D. Sizes are those that give the paper's numbers of
parameters (apple/ml-cvnets, `cvnets/models/segmentation/heads/deeplabv3.py`); the pyramid is torchvision's.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from nas.networks.backbone import Backbone

OUTPUT_STRIDE: Final = 16
RATES = (6, 12, 18)  # at that stride
CHANNELS, DROPOUT = 256, 0.1
IGNORED: Final = 255  # of masks: pixels that count nowhere


class DeepLabV3(nn.Module):
    """(B, 3, S, S) images to raw outputs, logits (B, num_classes, S, S) of each pixel.

    `loss` is of these, `decode` makes class maps of them. While it trains, a batch has two images or more: the pooled
    image is normalized.

    Args:
        backbone: best of output stride 16, as published. Its last map is taken; where that is coarser or finer, the
            rates reach as far in pixels.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        rates = [max(1, rate * OUTPUT_STRIDE // backbone.strides[-1]) for rate in RATES]
        self.aspp = ASPP(backbone.channels[-1], rates, CHANNELS)
        self.aspp.project[-1] = nn.Dropout(DROPOUT)
        self.classifier = nn.Conv2d(CHANNELS, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.classifier(self.aspp(self.backbone(images)[-1]))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)

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

    def predict(self, images: Tensor) -> Tensor:
        """As `decode`, of images."""
        return self.decode(self(images))
