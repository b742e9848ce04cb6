"""Mask R-CNN over the backbones that papers show in it computes what torchvision's computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from search_spaces import get_space
from search_spaces.dense import maskrcnn
from search_spaces.dense.backbone import Backbone
from search_spaces.dense.maskrcnn import FINEST_STRIDE, MaskRCNN, Sizes

SIZE = 64
LOSSES = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}


def network(space: str = "efficientformerv2-nano") -> MaskRCNN:
    made = get_space(space, SIZE, 2)
    torch.manual_seed(0)
    return MaskRCNN(Backbone(made, made.smallest, finest_stride=FINEST_STRIDE), 2, Sizes(16, 50, 16, 4))


def target() -> dict[str, torch.Tensor]:
    masks = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    masks[:, 10:40, 10:40] = 1
    return {"boxes": torch.tensor([[10.0, 10.0, 40.0, 40.0]]), "labels": torch.tensor([0]), "masks": masks}


def nothing() -> dict[str, torch.Tensor]:
    masks = torch.zeros(0, SIZE, SIZE, dtype=torch.uint8)
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": masks}


@pytest.mark.parametrize("space", ["efficientvit", "efficientformerv2"])
def test_it_trains_and_predicts(space: str) -> None:
    """EfficientViT's own maps begin at stride 16."""
    model = network(space)
    assert model.pyramid.strides == (4, 8, 16, 32, 64)
    images = torch.randn(2, 3, SIZE, SIZE)
    losses = model.losses(model(images), [target(), nothing()])
    assert losses.keys() == LOSSES
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    for found in model.predict(images):
        assert found["masks"].shape == (len(found["boxes"]), 28, 28) and 0 < len(found["boxes"]) <= 4
        assert set(found["labels"].tolist()) <= {0, 1} and (found["scores"].diff() <= 0).all()


def test_images_without_objects_train_every_parameter() -> None:
    """Processes of a job exchange the gradients of the same parameters, whatever is on their images."""
    model = network()
    loss = model.loss(model(torch.randn(2, 3, SIZE, SIZE)), [nothing(), nothing()])
    loss.backward()
    assert loss > 0 and all(parameter.grad is not None for parameter in model.parameters())


def test_it_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same weights, the same losses of the same draws, and the same boxes, classes, scores and masks."""
    made: dict[str, Any] = {}
    rcnn = maskrcnn._rcnn
    monkeypatch.setattr(maskrcnn, "_rcnn", lambda *args: made.setdefault("theirs", rcnn(*args)))
    model, theirs = network(), made["theirs"]
    theirs.transform = GeneralizedRCNNTransform(
        SIZE, SIZE, [0.0] * 3, [1.0] * 3, size_divisible=1, fixed_size=(SIZE, SIZE)
    )
    theirs.transform.torch_choice = lambda sizes: sizes[0]  # draws nothing
    images = torch.randn(2, 3, SIZE, SIZE)
    torch.manual_seed(1)
    ours = model.losses(model(images), [target(), target()])
    torch.manual_seed(1)
    expected = theirs(list(images), [{**target(), "labels": torch.tensor([1])}] * 2)
    assert ours.keys() == expected.keys() and all(torch.allclose(ours[name], expected[name]) for name in ours)
    model.eval()
    theirs.eval()
    theirs.transform.postprocess = lambda result, *_: result  # which would stretch masks over boxes
    with torch.no_grad():
        for found, other in zip(model.predict(images), theirs(list(images)), strict=True):
            assert torch.equal(found["labels"] + 1, other["labels"]) and torch.equal(found["scores"], other["scores"])
            assert torch.equal(found["boxes"], other["boxes"]) and torch.equal(found["masks"], other["masks"][:, 0])


def test_heads_are_as_published() -> None:
    """Of COCO's 80 classes those of Detectron's Mask R-CNN, which torchvision has."""
    made = get_space("efficientformerv2", SIZE, 80)
    with torch.device("meta"):
        ours = MaskRCNN(Backbone(made, made.published["s0"]), 80)
        theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81)
    for part in ("rpn", "roi_heads"):
        pair = (getattr(model, part).state_dict() for model in (ours, theirs))
        assert len({tuple((name, tensor.shape) for name, tensor in state.items()) for state in pair}) == 1
    settings = (ours.roi_heads, theirs.roi_heads)
    assert len({(one.score_thresh, one.nms_thresh, one.detections_per_img) for one in settings}) == 1
    assert ours.rpn.pre_nms_top_n() == 2000 and ours.rpn.post_nms_top_n() == 1000


def test_in_bfloat16_places_stay_exact() -> None:
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        maps = model(torch.randn(2, 3, SIZE, SIZE))
        assert maps["0"].dtype == torch.bfloat16
        loss = model.loss(maps, [target(), target()])
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    large = ImageList(torch.empty(1, 3, 800, 800), [(800, 800)])
    sides = [800 // stride for stride in model.pyramid.strides]
    exact, rounded = (
        model.rpn.anchor_generator(large, [torch.zeros(1, 1, side, side, dtype=dtype) for side in sides])[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(rounded, exact)
