"""ViT and DeiT."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from search_spaces.structure.families.registry import prepare
from search_spaces.structure.slicing import prune
from tests.contracts.pruning import PruningContract, PublishedContract

SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 10,
}


class TestViT(PruningContract):
    kinds = ("embedding", "heads", "key", "value", "ffn")

    def model(self) -> nn.Module:
        return timm.create_model("vit_tiny_patch16_224", init_values=1.0, **SMALL)


class TestDistilled(PruningContract):
    kinds = TestViT.kinds

    def model(self) -> nn.Module:
        return timm.create_model("deit_tiny_distilled_patch16_224", **SMALL)


class TestDeiTTiny(PublishedContract):
    name = "deit_tiny_patch16_224"


def test_vit_b_halved_is_deit_s() -> None:
    """22.05 M parameters: half the embedding, half the heads, half the FFNs (Touvron et al. 2021, Table 1)."""
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
    structure = prepare(model)
    halved = {
        d.name: torch.arange(d.size // 2) for d in structure.dimensions if d.kind in ("embedding", "heads", "ffn")
    }
    prune(model, structure, halved)
    small = timm.create_model("deit_small_patch16_224")
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in small.parameters()) == 22_050_664
