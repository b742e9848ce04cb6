"""Mask R-CNN runs over the backbones that papers show in it."""

from __future__ import annotations

import pytest
import torch

from nas.detection.maskrcnn import mask_rcnn
from search_spaces import get_space
from search_spaces.dense.backbone import Backbone

LOSSES = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}


@pytest.mark.parametrize(("space", "finest_stride"), [("efficientvit", 4), ("efficientformerv2", None)])
def test_it_trains_and_predicts(space: str, finest_stride: int | None) -> None:
    made = get_space(space, 64, 2)
    model = mask_rcnn(Backbone(made, made.smallest, finest_stride=finest_stride), 2)
    assert model.backbone.strides == (4, 8, 16, 32, 64)
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 16  # by default it takes 512 places, and shows 100
    model.roi_heads.detections_per_img = 4
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 10:40, 10:40] = 1
    target = {"boxes": torch.tensor([[10.0, 10.0, 40.0, 40.0]]), "labels": torch.tensor([1]), "masks": masks}
    images = list(torch.randn(2, 3, 64, 64))
    losses = model(images, [target, target])
    assert losses.keys() == LOSSES
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.backbone.backbone.parameters())
    with torch.no_grad():
        found = model.eval()(images[:1])[0]
    assert found["masks"].shape == (len(found["boxes"]), 1, 64, 64)
