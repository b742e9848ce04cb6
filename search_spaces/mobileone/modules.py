"""The blocks of MobileOne as they are trained: timm's own modules, under timm's own parameter names."""

from __future__ import annotations

from typing import Any, cast

from timm.layers import DropPath, SqueezeExcite, get_attn
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg, LayerFn, MobileOneBlock
from torch import nn

from search_spaces.block import RECTIFIED_MEAN
from search_spaces.drop_prob import DropsPath


class Block(DropsPath, MobileOneBlock):
    """timm's, whose drop path the supernet sets while it trains: (B, in_chs, R, R) to (B, out_chs, R / stride, …)."""

    def __init__(self, in_chs: int, out_chs: int, depthwise: bool, se: bool, **arguments: Any) -> None:
        layers = LayerFn(attn=get_attn("se")) if se else LayerFn()
        super().__init__(in_chs, out_chs, group_size=1 if depthwise else None, layers=layers, **arguments)
        self.drop_path = DropPath(0.0)
        begin_as_input(self)


def network(stages: list[list[dict[str, Any]]], stem: int, arguments: dict[str, Any]) -> ByobNet:
    """timm's model (see `MobileOneSpace.constructor`); its blocks begin as `begin_as_input` says."""
    blocks = tuple(tuple(ByoBlockCfg(**block) for block in stage) for stage in stages)
    model = ByobNet(ByoModelCfg(blocks=blocks, stem_type="one", stem_chs=stem), **arguments)
    for module in model.modules():
        if isinstance(module, MobileOneBlock):
            begin_as_input(module)
    return model


def begin_as_input(block: MobileOneBlock) -> None:
    """Sets a fresh block's norms as `Block.norm_start` says, and the gates of its squeeze-and-excitation to equal ones,
    which the next norm undoes: as timm begins they differ, and each block's changes the input once more."""
    excitation, identity = (cast(Any, part) for part in (block.attn, block.identity))
    if isinstance(excitation, SqueezeExcite):
        nn.init.zeros_(excitation.fc2.weight)
    if identity is None:
        return
    nn.init.constant_(identity.bias, RECTIFIED_MEAN)
    branches: list[Any] = [*block.conv_kxk, *([block.conv_scale] if block.conv_scale is not None else [])]
    for branch in branches:
        nn.init.zeros_(branch.bn.weight)
