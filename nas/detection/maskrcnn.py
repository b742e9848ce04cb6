"""Mask R-CNN over a backbone: torchvision's, with its feature pyramid network.

As EfficientFormerV2 (Li et al., ICCV 2023, Section 4.2) and EfficientViT (Liu et al., CVPR 2023, supplement D) are
shown in it; the latter's pyramid has five maps, of strides 4 to 64, which begin with two deconvolutions.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from search_spaces.dense.backbone import Backbone

FINEST_STRIDE, NUM_MAPS = 4, 5
CHANNELS = 256
ANCHOR = 8  # side of a level's anchors, in positions of its map
RATIOS = (0.5, 1.0, 2.0)


class Pyramid(nn.Module):
    """(B, 3, S, S) images to maps of 256 channels by name, from `0`, the finest, on: five of strides 4 and more.

    Args:
        backbone: of whose maps those of stride 4 and more are taken; where these are fewer than five, the last is
            strided once more. EfficientViT's wants a `finest_stride` of 4.
    """

    out_channels = CHANNELS

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        strides = [stride for stride in backbone.strides if stride >= FINEST_STRIDE]
        self.count = len(strides)
        once_more = self.count < NUM_MAPS
        self.strides = (*strides, 2 * strides[-1]) if once_more else tuple(strides)
        channels = list(backbone.channels[-self.count :])
        self.fpn = FeaturePyramidNetwork(channels, CHANNELS, LastLevelMaxPool() if once_more else None)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(images)[-self.count :]
        found: dict[str, Tensor] = self.fpn({str(i): x for i, x in enumerate(maps)})
        return found


def mask_rcnn(backbone: Backbone, num_classes: int) -> MaskRCNN:
    """torchvision's: a list of (3, S, S) images, which are taken as they are, and while it trains of targets, to its
    losses by name or, in evaluation, to boxes, labels, scores and masks of each image. Labels are from 1, as
    torchvision has them.

    Args:
        backbone: as `Pyramid` takes it.
    """
    size = backbone.image_size
    pyramid = Pyramid(backbone)
    anchors = AnchorGenerator(tuple((ANCHOR * stride,) for stride in pyramid.strides), len(pyramid.strides) * (RATIOS,))
    pooled_from = [str(i) for i in range(min(pyramid.count, NUM_MAPS - 1))]
    return MaskRCNN(
        pyramid,
        1 + num_classes,
        image_mean=[0.0] * 3,  # the images of a run are normalized as its network wants them
        image_std=[1.0] * 3,
        fixed_size=(size, size),
        size_divisible=1,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(pooled_from, output_size=7, sampling_ratio=2),
        mask_roi_pool=MultiScaleRoIAlign(pooled_from, output_size=14, sampling_ratio=2),
    )
