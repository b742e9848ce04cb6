"""The blocks of MobileViT as modules, each made of timm's own layers under timm's own parameter names.

timm's MobileViT block is cut where one tensor becomes another: `Local` turns the map into tokens, `Attention` and `Ffn`
change these, `Projection` makes them a map again, and `Fusion` joins it with the map that `Local` was given. That map
is handed on from block to block beside the tokens (`search_spaces.block`).

Tokens are (B, P · N, d): of P sequences, one for each place in a patch, the N tokens, one for each patch. Maps need not
be of whole patches: as in timm's block they are then resized to the next size that is.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention as TimmAttention
from timm.layers import DropPath, Mlp, drop_path
from timm.models.byobnet import BottleneckBlock, ByoBlockCfg, ByobNet, ByoModelCfg, get_layer_fns
from torch import Tensor, nn

from search_spaces.drop_prob import DropsPath
from search_spaces.mobilevit.published import HEADS, NETWORK, STEM_WIDTH, VARIED
from search_spaces.mobilevit.varied import VariedBlock

CONFIG = ByoModelCfg(blocks=(), **NETWORK)
LAYERS = get_layer_fns(CONFIG)

State = Tensor | tuple[Tensor, Tensor]  # what a block takes and gives, and the map that is handed on


def convolution(in_chs: int, out_chs: int, kernel: int, stride: int) -> nn.Module:
    """(B, in_chs, R, R) to (B, out_chs, R / stride, R / stride): convolution, norm, SiLU."""
    module: nn.Module = LAYERS.conv_norm_act(in_chs, out_chs, kernel, stride=stride)
    return module


class InvertedResidual(DropsPath, BottleneckBlock):
    """timm's, whose drop path the supernet sets while it trains: (B, in_chs, R, R) to (B, out_chs, R / stride, …)."""

    def __init__(self, in_chs: int, out_chs: int, expansion: int, stride: int) -> None:
        kind: dict[str, Any] = {"group_size": 1, "downsample": "", "bottle_in": True, "linear_out": True}
        super().__init__(in_chs, out_chs, stride=stride, bottle_ratio=expansion, layers=LAYERS, **kind)
        self.drop_path = DropPath(0.0)
        self.init_weights(zero_init_last=True)


class Local(nn.Module):
    """(B, width, R, R) to tokens, and that map."""

    def __init__(self, width: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.conv_kxk = LAYERS.conv_norm_act(width, width, 3)
        self.conv_1x1 = nn.Conv2d(width, dim, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return unfold(self.conv_1x1(self.conv_kxk(x)), self.patch), x


class Layer(nn.Module):
    """A residual branch on tokens."""

    drop_prob = 0.0  # of stochastic depth, set by the supernet while it trains

    def forward(self, x: State) -> State:
        if isinstance(x, tuple):
            return self.added(x[0]), x[1]
        return self.added(x)

    def added(self, tokens: Tensor) -> Tensor:
        return tokens + drop_path(self.branch(tokens), self.drop_prob, self.training)

    def branch(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError


class Attention(Layer):
    """First half of timm's transformer block, within each of the sequences."""

    def __init__(self, dim: int, heads: int, sequences: int) -> None:
        super().__init__()
        self.sequences = sequences
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention(dim, heads)

    def branch(self, tokens: Tensor) -> Tensor:
        batch, count, dim = tokens.shape
        apart = self.norm1(tokens).view(batch * self.sequences, count // self.sequences, dim)
        return self.attn(apart).view(batch, count, dim)


class Ffn(Layer):
    """Second half of timm's transformer block."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, dim * ratio, act_layer=LAYERS.act)

    def branch(self, tokens: Tensor) -> Tensor:
        return self.mlp(self.norm2(tokens))


class Projection(nn.Module):
    """Tokens to (B, width, R, R), with the map that came with them if `fused`.

    Args:
        resolution: R where no map comes with the tokens.
    """

    def __init__(self, dim: int, width: int, patch: int, resolution: int, fused: bool) -> None:
        super().__init__()
        self.patch, self.resolution, self.fused = patch, resolution, fused
        self.norm = nn.LayerNorm(dim)
        self.conv_proj = LAYERS.conv_norm_act(dim, width, 1)

    def forward(self, x: State) -> State:
        tokens, kept = x if isinstance(x, tuple) else (x, None)
        size = (self.resolution, self.resolution) if kept is None else kept.shape[-2:]
        y = self.conv_proj(fold(self.norm(tokens), self.patch, *size))
        return (y, kept) if self.fused and kept is not None else y


class Fusion(nn.Module):
    """What was made of a map joined with that map, each (B, width, R, R); with itself where no map came with it.

    Args:
        residual: both are added and normalized, else concatenated and convolved.
    """

    def __init__(self, width: int, residual: bool) -> None:
        super().__init__()
        if residual:
            self.fusion_norm = nn.BatchNorm2d(width)
        else:
            self.conv_fusion = LAYERS.conv_norm_act(2 * width, width, 3)
        self.residual = residual

    def forward(self, x: State) -> Tensor:
        y, kept = x if isinstance(x, tuple) else (x, x)
        if self.residual:
            return self.fusion_norm(kept + y)
        return self.conv_fusion(torch.cat((kept, y), dim=1))


def attention(dim: int, heads: int) -> TimmAttention:
    """timm's, of so many of the published heads."""
    return TimmAttention(dim, num_heads=heads, attn_head_dim=dim // HEADS, qkv_bias=True)


def unfold(x: Tensor, patch: int) -> Tensor:
    """(B, d, H, W) to tokens, as timm's MobileViT block does."""
    batch, channels, *size = x.shape
    height, width = (ceil(side / patch) for side in size)  # in patches
    if [height * patch, width * patch] != size:
        x = F.interpolate(x, (height * patch, width * patch), mode="bilinear", align_corners=False)
    x = x.reshape(batch * channels * height, patch, width, patch).transpose(1, 2)
    x = x.reshape(batch, channels, height * width, patch**2).transpose(1, 3)
    return x.reshape(batch, patch**2 * height * width, channels)


def fold(tokens: Tensor, patch: int, *size: int) -> Tensor:
    """Tokens to (B, d, H, W) of the size (H, W): the inverse of `unfold`."""
    batch, _, channels = tokens.shape
    height, width = (ceil(side / patch) for side in size)
    x = tokens.view(batch, patch**2, height * width, channels).transpose(1, 3)
    x = x.reshape(batch * channels * height, width, patch, patch).transpose(1, 2)
    x = x.reshape(batch, channels, height * patch, width * patch)
    if (height * patch, width * patch) != tuple(size):
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    return x


def network(stages: list[list[dict[str, Any]]], features: int, arguments: dict[str, Any]) -> ByobNet:
    """timm's model (see `MobileViTSpace.constructor`)."""
    blocks = tuple(tuple(map(_block, stage)) for stage in stages)
    config = replace(CONFIG, blocks=blocks, stem_chs=STEM_WIDTH, num_features=features)
    return ByobNet(config, **arguments)


def _block(block: dict[str, Any]) -> ByoBlockCfg:
    return ByoBlockCfg(**{**block, "type": partial(VariedBlock) if block["type"] == VARIED else block["type"]})
