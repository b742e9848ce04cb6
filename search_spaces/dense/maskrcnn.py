"""Mask R-CNN over a backbone: torchvision's, with its feature pyramid network.

As EfficientFormerV2 (Li et al., ICCV 2023, Section 4.2) and EfficientViT (Liu et al., CVPR 2023, supplement D) are
shown in it; the latter's pyramid has five maps, of strides 4 to 64, which begin with two deconvolutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as Torchvisions
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from search_spaces.dense.backbone import Backbone

FINEST_STRIDE, NUM_MAPS = 4, 5
ANCHOR = 8  # side of a level's anchors, in positions of its map
RATIOS = (0.5, 1.0, 2.0)
BOX_SIDE, MASK_SIDE = 7, 14  # positions that are taken of the maps for each place; a mask has twice as many

Maps = dict[str, Tensor]
Target = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """How much is computed; by default as published (MMDetection, `configs/_base_/models/mask_rcnn_r50_fpn.py`).

    Args:
        width: channels of the pyramid and of what makes masks; what names boxes has four times as many.
        proposals: places of an image that are looked at.
        samples: of these, that are learned from, a quarter on objects where there are so many.
        detections: objects that are found on an image, at most.
    """

    width: int = 256
    proposals: int = 1000
    samples: int = 512
    detections: int = 100


PUBLISHED_SIZES = Sizes()


class Pyramid(nn.Module):
    """(B, 3, S, S) images to maps of `out_channels` by name, from `0`, the finest, on; five where published.

    Args:
        backbone: of whose maps those of stride 4 and more are taken; where these are fewer than five, the last is
            strided once more. EfficientViT's wants a `finest_stride` of 4.
    """

    def __init__(self, backbone: Backbone, out_channels: int) -> None:
        super().__init__()
        self.backbone, self.out_channels = backbone, out_channels
        strides = [stride for stride in backbone.strides if stride >= FINEST_STRIDE]
        self.count = len(strides)
        once_more = self.count < NUM_MAPS
        self.strides = (*strides, 2 * strides[-1]) if once_more else tuple(strides)
        channels = list(backbone.channels[-self.count :])
        self.fpn = FeaturePyramidNetwork(channels, out_channels, LastLevelMaxPool() if once_more else None)

    def forward(self, images: Tensor) -> Maps:
        maps = self.backbone(images)[-self.count :]
        found: Maps = self.fpn({str(i): x for i, x in enumerate(maps)})
        return found


class MaskRCNN(nn.Module):
    """(B, 3, S, S) images to the maps of the pyramid, of which it is asked what they mean.

    Args:
        backbone: as `Pyramid` takes it.
    """

    def __init__(self, backbone: Backbone, num_classes: int, sizes: Sizes = PUBLISHED_SIZES) -> None:
        super().__init__()
        self.image_size, self.num_classes = backbone.image_size, num_classes
        self.pyramid = Pyramid(backbone, sizes.width)
        of_maps = _rcnn(self.pyramid, num_classes, sizes)  # only what it makes of maps is used of it
        self.rpn, self.roi_heads = of_maps.rpn, of_maps.roi_heads

    @property
    def backbone(self) -> Backbone:
        return self.pyramid.backbone

    def forward(self, images: Tensor) -> Maps:
        found: Maps = self.pyramid(images)
        return found

    def losses(self, maps: Maps, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Of places where objects may be and their boxes, and of the boxes, classes and masks of some of these places.

        In training mode. Which places are learned from is drawn from torch's generator.

        Args:
            targets: of each image, `boxes` (n, 4), left, top, right, bottom in pixels, `labels` (n,) from 0, and
                `masks` (n, S, S) uint8.
        """
        assert self.training
        named = [{**target, "labels": target["labels"] + 1} for target in targets]
        images = self._images(maps)
        proposals, of_places = self.rpn(images, maps, named)
        _, of_objects = self.roi_heads(maps, proposals, images.image_sizes, named)
        return {**of_places, **of_objects}

    def loss(self, maps: Maps, targets: Sequence[Target]) -> Tensor:
        """The sum of `losses`, as published."""
        return torch.stack(list(self.losses(maps, targets).values())).sum()

    @torch.no_grad()
    def decode(self, maps: Maps) -> list[dict[str, Tensor]]:
        """Of each image what remains after NMS, the surest first: `boxes` (n, 4) in pixels, `scores` and `labels` (n,),
        labels from 0, and `masks` (n, 28, 28), how likely each part of the box is of the object.

        In evaluation mode.
        """
        assert not self.training
        images = self._images(maps)
        proposals, _ = self.rpn(images, maps)
        found, _ = self.roi_heads(maps, proposals, images.image_sizes)
        return [{**one, "labels": one["labels"] - 1, "masks": one["masks"][:, 0]} for one in found]

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """As `decode`, of images."""
        return self.decode(self(images))

    def _images(self, maps: Maps) -> ImageList:
        """Of the sizes that the maps' images have; what is on them nobody looks at."""
        size = 2 * (self.image_size,)
        return ImageList(maps["0"].new_empty((1, 3, *size), device="meta"), len(maps["0"]) * [size])


class _Anchors(AnchorGenerator):  # type: ignore[misc]
    """In float32, whatever the maps are in: bfloat16 has no number for most pixels beyond 256."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        placed: list[Tensor] = super().forward(image_list, [x.float() for x in feature_maps])
        return placed


def _rcnn(pyramid: Pyramid, num_classes: int, sizes: Sizes) -> Torchvisions:
    """torchvision's, with class 0 for what is no object."""
    width, classes = sizes.width, 1 + num_classes
    pooled_from = [str(i) for i in range(min(pyramid.count, NUM_MAPS - 1))]
    return Torchvisions(
        pyramid,
        rpn_anchor_generator=_Anchors(
            tuple((ANCHOR * stride,) for stride in pyramid.strides), len(pyramid.strides) * (RATIOS,)
        ),
        rpn_pre_nms_top_n_train=2 * sizes.proposals,
        rpn_pre_nms_top_n_test=sizes.proposals,
        rpn_post_nms_top_n_train=sizes.proposals,
        rpn_post_nms_top_n_test=sizes.proposals,
        box_batch_size_per_image=sizes.samples,
        box_detections_per_img=sizes.detections,
        box_roi_pool=MultiScaleRoIAlign(pooled_from, output_size=BOX_SIDE, sampling_ratio=2),
        box_head=TwoMLPHead(width * BOX_SIDE**2, 4 * width),
        box_predictor=FastRCNNPredictor(4 * width, classes),
        mask_roi_pool=MultiScaleRoIAlign(pooled_from, output_size=MASK_SIDE, sampling_ratio=2),
        mask_head=MaskRCNNHeads(width, 4 * (width,), dilation=1),
        mask_predictor=MaskRCNNPredictor(width, width, classes),
    )
