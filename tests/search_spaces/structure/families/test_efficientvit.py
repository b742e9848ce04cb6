"""EfficientViT."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from search_spaces.structure.families.registry import prepare
from tests.contracts.pruning import PruningContract, PublishedContract


class TestEfficientViT(PruningContract):
    """Windows of 3 × 3 that do not divide the map of 4 × 4, then the whole map; 2 heads, then 3."""

    kinds = ("embedding", "key", "ffn", "width")
    image_size = 64

    def model(self) -> nn.Module:
        return timm.create_model(
            "efficientvit_m0",
            img_size=64,
            embed_dim=(16, 24),
            key_dim=(4, 6),
            num_heads=(2, 3),
            depth=(1, 2),
            window_size=(3, 3),
            num_classes=10,
        )

    @torch.no_grad()
    def test_biases_follow_their_tensor_in_evaluation(self, whole: Any, images: Tensor) -> None:
        whole(images)  # timm's model keeps what it gathered
        prepare(whole)
        before = whole(images)
        for block in whole.stages[1].blocks:
            block.mixer.m.attn.attention_biases.normal_(generator=torch.Generator().manual_seed(3))
        after = whole(images)
        assert not torch.allclose(after, before, rtol=1e-4, atol=1e-4)
        assert torch.equal(after, whole.train().eval()(images))


class TestPublished(PublishedContract):
    name = "efficientvit_m0"
