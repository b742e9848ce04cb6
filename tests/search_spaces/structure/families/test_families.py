"""Which models can be pruned."""

from __future__ import annotations

import pytest
import timm
import torch

from search_spaces import UserError
from search_spaces.structure.families.registry import prepare


@pytest.mark.parametrize("name", ["resnet18", "test_byobnet", "mobilevitv2_050"])
def test_an_unknown_family_is_refused(name: str) -> None:
    model = timm.create_model(name)
    with pytest.raises(UserError, match=rf"cannot prune this {type(model).__name__}; known are timm's ViT, DeiT"):
        prepare(model)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("vit_base_patch16_siglip_224", "attn_pool.latent is not known"),
        ("vit_small_patch16_dinov3", ""),
        ("vit_giant_patch14_reg4_dinov2", "has shape"),
        ("vit_base_patch16_18x2_224", "'ParallelThingsBlock' object has no attribute 'attn'"),
    ],
)
def test_a_variant_that_is_not_described_is_refused(name: str, what: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(UserError, match=f"cannot prune this .*{what}"):
        prepare(model)
