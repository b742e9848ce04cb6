"""SSDLite as published, for images of any size; its raw outputs as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from search_spaces import get_space
from search_spaces.dense.backbone import Backbone
from search_spaces.dense.ssdlite import SSDLite
from search_spaces.deployed import deployed
from tests.contracts.raw_outputs import assert_exports
from tests.nas.synthetic_run import trained_like


def detector(space: str = "mobileone-nano", size: int = 96, num_classes: int = 2, arch: str = "smallest") -> SSDLite:
    made = get_space(space, size, num_classes)
    return SSDLite(Backbone(made, made.named[arch]), num_classes)


def num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("arch", "millions"), [("xs", 2.7), ("s", 5.7)])
def test_it_is_as_large_as_published(arch: str, millions: float) -> None:
    """MobileViT, Table 1a; of COCO's 80 classes."""
    with torch.device("meta"):
        assert num_params(detector("mobilevit", 320, 80, arch)) / 1e6 == pytest.approx(millions, rel=0.05)


@pytest.mark.parametrize(("arch", "millions"), [("s1", 4.8), ("s2", 7.8), ("s3", 10.1), ("s4", 14.8)])
def test_mobileones_backbones_are_as_large_as_published(arch: str, millions: float) -> None:
    """MobileOne, Table 2, deployed and with the classifier, which the detector is without; of SSDLite it gives none."""
    space = get_space("mobileone", 320)
    *blocks, head = space.lower(space.published[arch])
    assert (sum(block.num_params for block in blocks) + head.num_params) / 1e6 == pytest.approx(millions, rel=0.05)
    with torch.device("meta"):
        module = detector("mobileone", 320, 80, arch)
    assert len(module.backbone.blocks) == len(blocks)
    fused = num_params(deployed(detector("mobileone", 320, 80, arch).backbone)) if arch == "s1" else None
    assert fused in (None, sum(block.num_params for block in blocks))


def test_default_boxes_are_those_of_the_published_configuration() -> None:
    with torch.device("meta"):
        module = detector("mobilevit", 320, 80, "xxs")
    assert len(module.anchors) == 6 * (20**2 + 10**2 + 5**2 + 3**2 + 2**2) + 4
    sides = (module.anchors[:, 2:] - module.anchors[:, :2]) / 320
    scales = torch.linspace(0.1, 1.05, 7)
    first = torch.tensor([scales[0], (scales[0] * scales[1]).sqrt(), scales[0] * 2**0.5, scales[0] / 2**0.5])
    torch.testing.assert_close(sides[:4, 0], first)
    torch.testing.assert_close(sides[-4:, 0].max(), torch.tensor(1.0))  # cut to the image


@pytest.mark.parametrize(("size", "maps"), [(96, [6, 3, 2, 1]), (160, [10, 5, 3, 2, 1]), (320, [20, 10, 5, 3, 2, 1])])
def test_small_images_have_fewer_maps(size: int, maps: list[int]) -> None:
    with torch.device("meta"):
        module = detector("mobilevit", size, 3, "xxs")
        logits, offsets = module(torch.empty(2, 3, size, size))
    number = sum(6 * side**2 for side in maps[:-1]) + 4
    assert len(module.anchors) == number
    assert (logits.shape, offsets.shape) == ((2, number, 4), (2, number, 4))


@pytest.mark.parametrize("space", ["mobilevit-nano", "mobileone-nano", "efficientvit-nano", "efficientformerv2-nano"])
def test_every_family_has_boxes(space: str) -> None:
    module = detector(space, 96, 3).eval()
    for image in module.predict(torch.randn(2, 3, 96, 96)):
        assert image["boxes"].shape == (len(image["scores"]), 4)
        assert image["labels"].min() >= 0 and image["labels"].max() <= 2
        assert image["boxes"].min() >= 0 and image["boxes"].max() <= 96


def targets() -> list[dict[str, Tensor]]:
    """Two objects of the first image, none of the second."""
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [50.0, 20.0, 90.0, 60.0]])
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [{"boxes": boxes, "labels": torch.tensor([0, 1])}, none]


def test_what_the_loss_asks_for_is_decoded() -> None:
    """Outputs that are trained by themselves until they say where the objects are."""
    module = detector()
    logits = torch.zeros(2, len(module.anchors), 3, requires_grad=True)
    offsets = torch.zeros(2, len(module.anchors), 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits, offsets], lr=0.2)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = module.loss((logits, offsets), targets())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    first, second = module.decode((logits, offsets))
    sure = first["scores"] > 0.5
    order = first["labels"][sure].argsort()
    assert first["labels"][sure][order].tolist() == [0, 1]
    torch.testing.assert_close(first["boxes"][sure][order], targets()[0]["boxes"], atol=1.0, rtol=0)
    assert not (second["scores"] > 0.5).any()


def test_images_without_an_object_have_no_part_in_the_loss_but_as_negatives() -> None:
    module = detector()
    x = torch.randn(2, 3, 96, 96)
    outputs = module(x)
    assert module.loss(outputs, 2 * [targets()[1]]) == 0
    module.loss(outputs, targets()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.heads.parameters())


def test_scores_before_nms_hold_what_remains_after_it() -> None:
    module = detector().eval()
    with torch.no_grad():
        outputs = module(torch.randn(1, 3, 96, 96))
    (image,) = module.decode(outputs)
    boxes, scores = module.scored(outputs)
    best = int(image["labels"][0])
    place = scores[0, :, best].argmax()
    assert scores[0, place, best] == image["scores"][0]
    torch.testing.assert_close(boxes[0, place], image["boxes"][0])


def test_raw_outputs_are_exported(tmp_path: Path) -> None:
    space = get_space("mobilevit-nano", 64, 2)
    backbone = Backbone(space, space.smallest)
    backbone.load(trained_like(space, space.smallest).state_dict())
    assert_exports(SSDLite(backbone, 2).eval(), 64, tmp_path)


def test_it_is_deployed_as_its_backbone_is() -> None:
    module = detector()
    x = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        trained, fused = module.double().eval()(x), deployed(module)(x)
    torch.testing.assert_close(fused, trained)
