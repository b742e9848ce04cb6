"""SSDLite over a backbone, as published with MobileViT: SSD whose layers are separable convolutions.

Mehta and Rastegari, MobileViT, ICLR 2022, Section 4.2.1; sizes are those of its authors' configuration
(apple/ml-cvnets, `cvnets/models/detection/ssd.py`, `modules/ssd_heads.py`; `ssdlite_plan`).
Default boxes, matching, hard negatives, smooth L1 and cross-entropy, and NMS are torchvision's; negatives of images
without an object are ours (`Boxes.loss`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import Conv2dNormActivation, box_iou, clip_boxes_to_image

from search_spaces.dense.backbone import Backbone
from search_spaces.dense.passing import Passed, unpacked
from search_spaces.dense.plans import POOLED_CHANNELS, Plan, plan

SCALES = 0.1, 1.05  # of default boxes, finest and beyond the coarsest map, as shares of the image
NEGATIVES = 3  # of an image without an object, as many as torchvision takes for each match
SCORE, IOU, CANDIDATES, DETECTIONS = 0.01, 0.5, 400, 200  # what is kept: of each class before NMS, and of an image

Outputs = tuple[Tensor, Tensor]
Target = Mapping[str, Tensor]

_pointwise = partial(Conv2dNormActivation, kernel_size=1)


def _depthwise(channels: int, stride: int = 1) -> nn.Module:
    return Conv2dNormActivation(channels, channels, 3, stride, groups=channels, activation_layer=None)


class Boxes(nn.Module):
    """What SSDLite's raw outputs mean for images of a size: their loss, and the boxes that they make.

    Raw outputs are logits (B, A, 1 + num_classes) of A default boxes, the first of background, and (B, A, 4) offsets
    from them.
    """

    anchors: Tensor  # (A, 4) default boxes: left, top, right, bottom in pixels

    def __init__(self, image_size: int, planned: Plan, num_classes: int) -> None:
        super().__init__()
        self.image_size, self.num_classes = image_size, num_classes
        self._sides, ratios = planned.sides, planned.ratios
        scales = torch.linspace(*SCALES, len(ratios) + 1, device="cpu").tolist()
        boxes = DefaultBoxGenerator(ratios, scales=scales)
        # only what it computes of outputs is used of it
        self._ssd = SSD(
            nn.Identity(), boxes, 2 * (image_size,), 1 + num_classes, head=nn.Identity(),
            score_thresh=SCORE, nms_thresh=IOU, topk_candidates=CANDIDATES, detections_per_img=DETECTIONS,
        )  # fmt: skip
        self.register_buffer("anchors", self._placed(), persistent=False)

    def _placed(self) -> Tensor:
        """(A, 4) the default boxes."""
        size = 2 * (self.image_size,)
        with torch.device("cpu"):
            maps = [torch.empty(1, 1, side, side) for side in self._sides]
            placed: Tensor = self._ssd.anchor_generator(ImageList(torch.empty(1, 3, *size), [size]), maps)[0]
        return placed

    def init_non_persistent_buffers(self) -> None:
        """By timm's protocol: a module made without memory is given its default boxes."""
        self.anchors.copy_(self._placed())

    def raw(self, state: Passed) -> Outputs:
        """Raw outputs of what the last block of a network's chain gives."""
        return self.gathered(state.found)

    def gathered(self, found: Sequence[Tensor]) -> Outputs:
        """Raw outputs of what predictors make of each map, finest first."""
        columns = 5 + self.num_classes
        rows = [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns) for x in found]
        offsets, logits = torch.cat(rows, dim=1).split((4, 1 + self.num_classes), dim=2)
        return logits, offsets

    def loss(self, outputs: Outputs, targets: Sequence[Target]) -> Tensor:
        """Smooth L1 of the default boxes that match an object and cross-entropy of these and of three times as many
        others of their image, the worst; by the number of the former.

        torchvision mines the others by the matches of their image, so an image without an object would teach nothing:
        its NEGATIVES worst default boxes count. What is divided by is the number of such images if these are more
        than the matches, so that the loss of a batch with few objects is no larger than that of others.

        Args:
            targets: of each image, `boxes` (n, 4), left, top, right, bottom in pixels, and `labels` (n,) from 0.
        """
        named = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
        matched = [self._matched(target["boxes"]) for target in targets]
        by_name = _by_name(outputs)
        losses = self._ssd.compute_loss(named, by_name, len(targets) * [self.anchors], matched)
        matches = (torch.stack(matched) >= 0).sum(dim=1)
        empty = matches == 0
        background = -by_name["cls_logits"][empty].log_softmax(dim=2)[..., 0]
        worst = background.topk(NEGATIVES, dim=1).values.sum()
        mean = losses["bbox_regression"] + losses["classification"]  # by the number of matches
        number = matches.sum().clamp(min=1)
        most = torch.maximum(number, empty.sum())
        return mean * (number / most) + worst / most

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

    def scored(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Before NMS, for formats that have it as an operator.

        Returns:
            Boxes (B, A, 4) in pixels, and scores (B, A, num_classes).
        """
        logits, offsets = outputs
        anchors = self.anchors.expand(offsets.shape[0], -1, -1).reshape(-1, 4)  # `len` would fix the batch of a file
        boxes = self._ssd.box_coder.decode_single(offsets.reshape(-1, 4), anchors)
        boxes = clip_boxes_to_image(boxes, 2 * (self.image_size,)).view_as(offsets)
        return boxes, logits.softmax(dim=2)[..., 1:]


class SSDLite(Boxes):
    """(B, 3, S, S) images to raw outputs, of which it is asked what they mean.

    Args:
        backbone: for images of S pixels; its maps are taken, and further ones made, as `plan` says.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        planned = plan(backbone.image_size, backbone.strides)
        super().__init__(backbone.image_size, planned, num_classes)
        self.backbone, self.num_maps = backbone, planned.num_maps
        channels = planned.channels(backbone.channels)
        makers = [*planned.num_extras * [extra], *planned.pooled * [pooled]]
        made = zip(makers, channels[self.num_maps - 1 :], channels[self.num_maps :], strict=False)
        self.extras = nn.ModuleList(make(before, after) for make, before, after in made)
        columns = (number * (5 + num_classes) for number in planned.boxes)
        self.heads = nn.ModuleList(map(Predictor, channels, planned.widths, columns))

    def forward(self, images: Tensor) -> Outputs:
        maps = self.backbone(images)[-self.num_maps :]
        for make in self.extras:
            maps.append(make(maps[-1]))
        found: Passed = Passed(None, ())
        for head, x in zip(self.heads, maps, strict=True):
            found = head(Passed(x, found.found))
        return self.gathered(found.found)

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """As `decode`, of images."""
        return self.decode(self(images))


# ---- layers


class Predictor(nn.Module):
    """A map (B, before, R, R) to what it says of its default boxes, (B, after, R, R), by `wanted` channels.

    As a block of a chain it hands the map on, and what it makes of it beside.
    """

    def __init__(self, before: int, wanted: int, after: int) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {}
        if wanted != POOLED_CHANNELS:  # of the pooled image, one position, there is nothing to convolve
            layers |= {} if before == wanted else {"projection": _pointwise(before, wanted)}
            layers["depthwise"] = _depthwise(wanted)
        self.columns = nn.Sequential(OrderedDict({**layers, "columns": nn.Conv2d(wanted, after, 1)}))
        self.apply(_initialize)

    def forward(self, state: Any) -> Passed:
        x, found = unpacked(state)
        return Passed(x, (*found, self.columns(x)))


def extra(before: int, after: int) -> nn.Module:
    """(B, before, R, R) to (B, after, R / 2, R / 2), rounded up."""
    return nn.Sequential(_depthwise(before, stride=2), _pointwise(before, after)).apply(_initialize)


def pooled(before: int, after: int) -> nn.Module:
    """(B, before, R, R) to (B, after, 1, 1)."""
    layers = nn.AdaptiveAvgPool2d(1), _pointwise(before, after, norm_layer=None, bias=False)
    return nn.Sequential(*layers).apply(_initialize)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _by_name(outputs: Outputs) -> dict[str, Tensor]:
    return {"cls_logits": outputs[0].float(), "bbox_regression": outputs[1].float()}
