"""SSDLite over a backbone, as published with MobileViT: SSD whose layers are separable convolutions.

Mehta and Rastegari, MobileViT, ICLR 2022, Section 4.2.1; sizes are those of its authors' configuration
(apple/ml-cvnets, `config/detection/ssd_coco/mobilevit.yaml`, `cvnets/models/detection/ssd.py`, `modules/ssd_heads.py`).
Default boxes, matching, hard negatives, smooth L1 and cross-entropy, and NMS are torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import Conv2dNormActivation, box_iou, clip_boxes_to_image

from nas.networks.backbone import Backbone

FIRST_STRIDE = 16
# Channels that maps are projected to, or made with, finest first; the last is the whole image pooled.
CHANNELS, POOLED_CHANNELS = (512, 256, 256, 128, 128), 64
RATIOS, POOLED_RATIOS = [2, 3], [2]  # of default boxes, beside two squares
SCALES = 0.1, 1.05  # of default boxes, finest and beyond the coarsest map, as shares of the image
SCORE, IOU, CANDIDATES, DETECTIONS = 0.01, 0.5, 400, 200  # what is kept: of each class before NMS, and of an image

Outputs = tuple[Tensor, Tensor]
Target = Mapping[str, Tensor]

_pointwise = partial(Conv2dNormActivation, kernel_size=1)


def _depthwise(channels: int, stride: int = 1) -> nn.Module:
    return Conv2dNormActivation(channels, channels, 3, stride, groups=channels, activation_layer=None)


class SSDLite(nn.Module):
    """(B, 3, S, S) images to raw outputs: logits (B, A, 1 + num_classes) of A default boxes, the first of background,
    and (B, A, 4) offsets from them.

    `loss` is of these, `decode` makes boxes of them.

    Args:
        backbone: for images of S pixels. Its maps from stride 16 on are taken, or the last two if fewer are that
            coarse; coarser ones are added while they have more than 2 x 2 positions, and the pooled image.
    """

    anchors: Tensor  # (A, 4) default boxes: left, top, right, bottom in pixels

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone, self.image_size, self.num_classes = backbone, backbone.image_size, num_classes
        strides = backbone.strides
        self.num_maps = max(sum(stride >= FIRST_STRIDE for stride in strides), min(2, len(strides)))
        sides = [ceil(self.image_size / stride) for stride in strides[-self.num_maps :]]
        channels = list(backbone.channels[-self.num_maps :])
        self.extras = nn.ModuleList()
        while sides[-1] > 2 and len(sides) < len(CHANNELS):
            self.extras.append(_extra(channels[-1], CHANNELS[len(sides)]))
            channels.append(CHANNELS[len(sides)])
            sides.append(ceil(sides[-1] / 2))
        boxes = _default_boxes(len(sides), pooled := sides[-1] > 1)
        columns = 4 + 1 + num_classes
        each = boxes.num_anchors_per_location()
        self.heads = nn.ModuleList(
            _head(before, wanted, number * columns)
            for before, wanted, number in zip(channels, CHANNELS, each, strict=False)
        )
        if pooled:
            self.extras.append(_pool(channels[-1]))
            self.heads.append(nn.Conv2d(POOLED_CHANNELS, each[-1] * columns, 1))
            sides.append(1)
        for part in (self.extras, self.heads):
            part.apply(_initialize)
        # only what it computes of outputs is used of it: its backbone and head are those above
        self._ssd = SSD(
            nn.Identity(), boxes, 2 * (self.image_size,), 1 + num_classes, head=nn.Identity(),
            score_thresh=SCORE, nms_thresh=IOU, topk_candidates=CANDIDATES, detections_per_img=DETECTIONS,
        )  # fmt: skip
        self.register_buffer("anchors", _placed(boxes, self.image_size, sides), persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        maps = self.backbone(images)[-self.num_maps :]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        found = [
            head(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 5 + self.num_classes)
            for head, x in zip(self.heads, maps, strict=True)
        ]
        offsets, logits = torch.cat(found, dim=1).split((4, 1 + self.num_classes), dim=2)
        return logits, offsets

    def loss(self, outputs: Outputs, targets: Sequence[Target]) -> Tensor:
        """Smooth L1 of the default boxes that match an object and cross-entropy of these and of three times as many
        others, the worst; by the number of the former.

        Args:
            targets: of each image, `boxes` (n, 4), left, top, right, bottom in pixels, and `labels` (n,) from 0.
        """
        named = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
        matched = [self._matched(target["boxes"]) for target in targets]
        losses = self._ssd.compute_loss(named, _by_name(outputs), len(targets) * [self.anchors], matched)
        return losses["bbox_regression"] + losses["classification"]

    def _matched(self, boxes: Tensor) -> Tensor:
        """(A,) which object each default box is for, or -1."""
        if not len(boxes):
            return torch.full((len(self.anchors),), -1, device=self.anchors.device)
        found: Tensor = self._ssd.proposal_matcher(box_iou(boxes, self.anchors))
        return found

    @torch.no_grad()
    def decode(self, outputs: Outputs) -> list[dict[str, Tensor]]:
        """Of each image what remains after NMS, the surest first: `boxes` (n, 4) in pixels, `scores` and `labels` (n,),
        labels from 0."""
        count = len(outputs[0])
        sizes = count * [2 * (self.image_size,)]
        found = self._ssd.postprocess_detections(_by_name(outputs), count * [self.anchors], sizes)
        return [{**image, "labels": image["labels"] - 1} for image in found]

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """As `decode`, of images."""
        return self.decode(self(images))

    def scored(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Before NMS, for formats that have it as an operator.

        Returns:
            Boxes (B, A, 4) in pixels, and scores (B, A, num_classes).
        """
        logits, offsets = outputs
        anchors = self.anchors.repeat(len(offsets), 1)
        boxes = self._ssd.box_coder.decode_single(offsets.reshape(-1, 4), anchors)
        boxes = clip_boxes_to_image(boxes, 2 * (self.image_size,)).view_as(offsets)
        return boxes, logits.softmax(dim=2)[..., 1:]


def _by_name(outputs: Outputs) -> dict[str, Tensor]:
    return {"cls_logits": outputs[0].float(), "bbox_regression": outputs[1].float()}


# ---- layers


def _extra(before: int, after: int) -> nn.Module:
    """(B, before, R, R) to (B, after, R / 2, R / 2), rounded up."""
    return nn.Sequential(_depthwise(before, stride=2), _pointwise(before, after))


def _pool(before: int) -> nn.Module:
    """(B, before, R, R) to (B, 64, 1, 1)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), _pointwise(before, POOLED_CHANNELS, norm_layer=None, bias=False))


def _head(before: int, wanted: int, after: int) -> nn.Module:
    """(B, before, R, R) to (B, after, R, R), by `wanted` channels."""
    projection = [] if before == wanted else [_pointwise(before, wanted)]
    return nn.Sequential(*projection, _depthwise(wanted), nn.Conv2d(wanted, after, 1))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# ---- default boxes


def _default_boxes(num_maps: int, pooled: bool) -> DefaultBoxGenerator:
    """Of so many maps, and the pooled image: scales rise from map to map by the same step."""
    ratios = num_maps * [RATIOS] + pooled * [POOLED_RATIOS]
    return DefaultBoxGenerator(ratios, scales=torch.linspace(*SCALES, len(ratios) + 1, device="cpu").tolist())


def _placed(boxes: DefaultBoxGenerator, image_size: int, sides: Sequence[int]) -> Tensor:
    """(A, 4) on an image of that height and width."""
    with torch.device("cpu"):
        images = ImageList(torch.empty(1, 3, image_size, image_size), [2 * (image_size,)])
        placed: list[Tensor] = boxes(images, [torch.empty(1, 1, side, side) for side in sides])
    return placed[0]
