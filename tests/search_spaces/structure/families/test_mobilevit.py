"""MobileViT."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.byobnet import ByoBlockCfg
from torch import nn

from search_spaces.structure.costs import Costs
from search_spaces.structure.families.registry import prepare
from tests.contracts.pruning import PruningContract, PublishedContract
from tests.contracts.space import fvcore_macs


def residual(width: int, stride: int, depth: int = 1) -> ByoBlockCfg:
    return ByoBlockCfg("bottle", depth, width, stride, 1, 2.0, block_kwargs={"bottle_in": True, "linear_out": True})


def mobilevit(width: int, embedding: int, fusion: bool = True) -> ByoBlockCfg:
    settings = {"transformer_dim": embedding, "transformer_depth": 2, "patch_size": 2, "no_fusion": not fusion}
    return ByoBlockCfg("mobilevit", 1, width, 1, block_kwargs=settings)


SMALL: dict[str, Any] = {
    "stem_chs": 8,
    "blocks": (
        residual(8, 1),  # tied to the stem
        residual(12, 2, depth=3),
        (residual(16, 2), mobilevit(16, 24)),
        (residual(16, 2), mobilevit(16, 16, fusion=False)),
    ),
    "num_features": 20,
    "num_classes": 10,
}


class TestMobileViT(PruningContract):
    image_size = 64
    gain = 1.0
    kinds = ("embedding", "heads", "key", "value", "ffn", "width")

    def model(self) -> nn.Module:
        return timm.create_model("mobilevit_xxs", **SMALL)


class TestPublished(PublishedContract):
    name = "mobilevit_xxs"
    image_size = 256


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilevit_xs", "mobilevit_s"])
def test_costs_of_larger_models(name: str) -> None:
    model = timm.create_model(name).eval()
    image = torch.zeros(1, 3, 256, 256)
    counted = fvcore_macs(model, image)
    costs = Costs(model, structure := prepare(model), image)
    assert costs.num_params(structure.sizes) == sum(p.numel() for p in model.parameters())
    assert costs.macs(structure.sizes) == counted
