"""SSDLite as published, for images of any size; its raw outputs as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from search_spaces import get_space
from search_spaces.dense.backbone import Backbone
from search_spaces.dense.ssdlite import NEGATIVES, SSDLite
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
    assert losses[-1] < losses[0] / 5  # negatives of the second image are a few at a time
    first, second = module.decode((logits, offsets))
    sure = first["scores"] > 0.5
    order = first["labels"][sure].argsort()
    assert first["labels"][sure][order].tolist() == [0, 1]
    torch.testing.assert_close(first["boxes"][sure][order], targets()[0]["boxes"], atol=1.0, rtol=0)
    assert not (second["scores"] > 0.5).any()


def test_images_without_an_object_are_trained_on_as_negatives() -> None:
    """Their worst boxes, whether or not another image of the batch has an object."""
    module = detector()
    logits = torch.randn(2, len(module.anchors), 3)
    offsets = torch.randn(2, len(module.anchors), 4)
    for given in (targets(), 2 * [targets()[1]]):
        raw = logits.clone().requires_grad_()
        module.loss((raw, offsets), given).backward()
        pulled = raw.grad.abs().sum(dim=2)[1].nonzero()[:, 0]  # type: ignore[union-attr]
        worst = logits[1].softmax(dim=1)[:, 0].topk(NEGATIVES, largest=False).indices
        assert set(pulled.tolist()) == set(worst.tolist())
        assert (raw.grad[1, pulled, 0] < 0).all()  # type: ignore[index]
    outputs = module(torch.randn(2, 3, 96, 96))
    module.loss(outputs, 2 * [targets()[1]]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.heads.parameters())
    assert sum(p.grad.abs().sum() for p in module.backbone.parameters() if p.grad is not None) > 0


def test_the_loss_of_images_with_objects_is_torchvisions() -> None:
    """Of a batch of which each has one to the last bit; of no more images without one than matches, with theirs added;
    images without one alone have the mean of theirs."""
    module = detector()
    found, none = targets()
    outputs = torch.randn(3, len(module.anchors), 3), torch.randn(3, len(module.anchors), 4)
    matched = module._matched(found["boxes"])
    named = [{"boxes": found["boxes"], "labels": found["labels"] + 1}]
    given = {"cls_logits": outputs[0][:2], "bbox_regression": outputs[1][:2]}
    losses = module._ssd.compute_loss(2 * named, given, 2 * [module.anchors], 2 * [matched])
    both = sum(losses.values())
    assert module.loss((outputs[0][:2], outputs[1][:2]), [found, found]) == both
    worst = -outputs[0].log_softmax(dim=2)[..., 0].topk(NEGATIVES, largest=False).values.sum(dim=1)
    matches = 2 * (matched >= 0).sum()
    torch.testing.assert_close(module.loss(outputs, [found, found, none]), both + worst[2] / matches)
    torch.testing.assert_close(module.loss(outputs, 3 * [none]), worst.mean())


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
