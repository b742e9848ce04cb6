"""Vision transformers whose layers are another mix of attention and FFN than one of each in every block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import timm
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn


class AttentionLayer(nn.Module):
    """The first half of a block of timm's ViT or Swin: its input and what attention makes of that, normalized."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        del block.norm2, block.mlp
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        attend = block._attn if hasattr(block, "_attn") else block.attn  # Swin's, in windows
        return x + attend(block.norm1(x))


class FfnLayer(nn.Module):
    """The second half of such a block: its input and what the FFN makes of that, normalized."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm, self.mlp = block.norm2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


@cache
def depths(name: str) -> tuple[int, ...]:
    """Blocks of each stage of timm's network: a ViT is one stage."""
    return tuple(len(stage.blocks) for stage in _stages(timm.create_model(name)))


def mixed(name: str, attention: Sequence[int], ffn: Sequence[int]) -> nn.Module:
    """timm's network with so many layers of each kind in each stage, either kind spread evenly over the other.

    It has the layers of as many blocks as it needs, with random weights.
    """
    longest = tuple(max(counts) for counts in zip(attention, ffn, strict=True))
    size: dict[str, Any] = {"depths": longest} if len(longest) > 1 else {"depth": longest[0]}
    model = timm.create_model(name, **size)
    for stage, num_attention, num_ffn in zip(_stages(model), attention, ffn, strict=True):
        blocks = list(stage.blocks)
        layers: list[tuple[float, int, nn.Module]]
        layers = [((i + 0.5) / num_ffn, 1, FfnLayer(blocks[i])) for i in range(num_ffn)]  # before it goes from a block
        layers += [((i + 0.5) / num_attention, 0, AttentionLayer(blocks[i])) for i in range(num_attention)]
        stage.blocks = nn.Sequential(*(layer for *_, layer in sorted(layers, key=lambda row: row[:2])))
    return model


def _stages(model: Any) -> list[Any]:
    return list(model.layers) if isinstance(model, SwinTransformer) else [model]


def shared_out(total: int, depths: Sequence[int]) -> tuple[int, ...]:
    """So many layers over stages, as their depths have it; what remains goes to the largest remainders."""
    exact = [total * depth / sum(depths) for depth in depths]
    counts = [int(share) for share in exact]
    order = sorted(range(len(depths)), key=lambda s: counts[s] - exact[s])
    for s in order[: total - sum(counts)]:
        counts[s] += 1
    return tuple(counts)
