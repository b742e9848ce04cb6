"""The blocks of MobileOne as they are trained: timm's own modules, under timm's own parameter names."""

from __future__ import annotations

from typing import Any

from timm.layers import ClassifierHead, DropPath, get_attn
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg, LayerFn, MobileOneBlock
from torch import nn


class Block(MobileOneBlock):
    """timm's, whose drop path the supernet sets while it trains: (B, in_chs, R, R) to (B, out_chs, R / stride, …)."""

    def __init__(self, in_chs: int, out_chs: int, depthwise: bool, se: bool, **arguments: Any) -> None:
        layers = LayerFn(attn=get_attn("se")) if se else LayerFn()
        super().__init__(in_chs, out_chs, group_size=1 if depthwise else None, layers=layers, **arguments)
        self.drop_path = DropPath(0.0)

    @property
    def drop_prob(self) -> float:
        return float(self.drop_path.drop_prob)  # type: ignore[arg-type]

    @drop_prob.setter
    def drop_prob(self, value: float) -> None:
        self.drop_path.drop_prob = value


def head(width: int, num_classes: int) -> nn.Module:
    """(B, width, R, R) to (B, num_classes) logits."""
    return ClassifierHead(width, num_classes)


def network(stages: list[list[dict[str, Any]]], stem: int, arguments: dict[str, Any]) -> ByobNet:
    """timm's model (see `MobileOneSpace.constructor`)."""
    blocks = tuple(tuple(ByoBlockCfg(**block) for block in stage) for stage in stages)
    return ByobNet(ByoModelCfg(blocks=blocks, stem_type="one", stem_chs=stem), **arguments)
