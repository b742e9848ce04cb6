"""Swin."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from search_spaces.structure.families.registry import prepare
from search_spaces.structure.slicing import prune
from tests.contracts.pruning import PruningContract, PublishedContract, split

SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "num_classes": 10,
}


class TestSwin(PruningContract):
    """Four shifted windows in the first stage, one window in the second."""

    kinds = ("embedding", "heads", "key", "value", "ffn")

    def model(self) -> nn.Module:
        return timm.create_model("swin_tiny_patch4_window7_224", **SMALL)

    @torch.no_grad()
    def test_a_pruned_model_takes_images_of_another_size(self, whole: Any) -> None:
        """timm's own method resizes the bias tables and makes the masks anew."""
        structure = prepare(whole)
        prune(whole, structure, split(structure, lambda _: True)[0])
        whole.set_input_size(img_size=64)
        assert whole.layers[0].blocks[1].attn.window_size == (8, 8)
        assert whole(torch.randn(2, 3, 64, 64)).shape == (2, 10)


class TestPublished(PublishedContract):
    name = "swin_tiny_patch4_window7_224"
