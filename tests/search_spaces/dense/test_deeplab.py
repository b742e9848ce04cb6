"""DeepLabv3 as published, for images of any size; its raw outputs as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces import get_space
from search_spaces.dense.backbone import Backbone
from search_spaces.dense.deeplab import IGNORED, DeepLabV3
from tests.contracts.raw_outputs import assert_exports
from tests.nas.synthetic_run import trained_like


def segmenter(
    space: str, size: int, num_classes: int = 3, arch: str = "smallest", stride: int | None = 16
) -> DeepLabV3:
    made = get_space(space, size, num_classes)
    return DeepLabV3(Backbone(made, made.named[arch], output_stride=stride), num_classes)


@pytest.mark.parametrize(("arch", "millions"), [("xxs", 1.9), ("xs", 2.9), ("s", 6.4)])
def test_it_is_as_large_as_published(arch: str, millions: float) -> None:
    """MobileViT, Table 2; of Pascal VOC's 20 classes and the background."""
    with torch.device("meta"):
        module = segmenter("mobilevit", 512, 21, arch)
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


@pytest.mark.parametrize(
    ("space", "stride", "rates"),
    [
        ("mobilevit", 16, [6, 12, 18]),
        ("mobileone", 16, [6, 12, 18]),
        ("efficientvit", 16, [6, 12, 18]),
        ("efficientformerv2", None, [3, 6, 9]),  # of stride 32
        ("mobilevit-nano", 16, [12, 24, 36]),  # of stride 8
    ],
)
def test_rates_reach_as_far_at_any_stride(space: str, stride: int | None, rates: list[int]) -> None:
    with torch.device("meta"):
        module = segmenter(space, 64, stride=stride)
        assert module(torch.empty(2, 3, 64, 64)).shape == (2, 3, 64, 64)
    pyramid: Any = module.aspp
    assert [pyramid.convs[i][0].dilation[0] for i in (1, 2, 3)] == rates


def test_what_the_loss_asks_for_is_decoded() -> None:
    module = segmenter("mobileone-nano", 64, stride=None)
    masks = torch.zeros(2, 64, 64, dtype=torch.int64)
    masks[:, 16:48, 16:48] = 2
    masks[0, :8] = IGNORED
    outputs = torch.zeros(2, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module.loss(outputs, masks), outputs)
    assert not gradient[0, :, :8].any()
    decoded = module.decode(outputs - gradient)
    counted = masks != IGNORED
    assert torch.equal(decoded[counted], masks[counted])
    assert module.loss(outputs, masks).item() == pytest.approx(torch.tensor(3.0).log().item())


def test_a_mask_that_is_all_ignored_has_no_loss() -> None:
    module = segmenter("mobileone-nano", 64, stride=None)
    masks = torch.full((1, 64, 64), IGNORED)
    assert module.loss(torch.randn(1, 3, 64, 64), masks) == 0


def test_a_step_reaches_every_weight() -> None:
    module = segmenter("mobilevit-nano", 64).train()
    module.loss(module(torch.randn(2, 3, 64, 64)), torch.randint(0, 3, (2, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert module.eval().predict(torch.randn(1, 3, 64, 64)).shape == (1, 64, 64)


def test_raw_outputs_are_exported(tmp_path: Path) -> None:
    space = get_space("mobilevit-nano", 64, 3)
    backbone = Backbone(space, space.smallest, output_stride=16)
    backbone.load(trained_like(space, space.smallest).state_dict())
    assert_exports(DeepLabV3(backbone, 3).eval(), 64, tmp_path)
