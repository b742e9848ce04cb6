"""MobileViT (Mehta and Rastegari 2022), as timm's `ByobNet` of inverted residuals and MobileViT blocks.

An inverted residual with a shortcut has the width of its input. A MobileViT block has a local width, the embedding of
its transformer, and a width to return to the map with, which its fusion, where there is one, takes concatenated with
the block's input. In `search_spaces.mobilevit.varied` both may be added instead, and are then of one width.
"""

from __future__ import annotations

from typing import Any

from timm.models.byobnet import BottleneckBlock, ByobNet
from timm.models.mobilevit import MobileVitBlock
from torch import nn

from search_spaces.layout import Axis, axis
from search_spaces.structure.base import Builder, Structure
from search_spaces.structure.families import attention
from search_spaces.structure.families.vit import describe_block

MODELS = "MobileViT"
SOURCE, prepare = attention.SOURCE, attention.prepare


def is_member(model: nn.Module) -> bool:
    """The first version; the blocks of MobileViTv2 are others."""
    return isinstance(model, ByobNet) and any(isinstance(module, MobileVitBlock) for module in model.modules())


def describe(model: Any) -> Structure:
    """Structure of a prepared model, whole or pruned."""
    builder = Builder(model)
    x = _width(builder, "stem.width", model.stem)
    builder.conv_norm("stem", x, axis(model.in_chans))
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage):
            add = _mobilevit_block if isinstance(block, MobileVitBlock) else _inverted_residual
            x = add(builder, f"stages.{i}.{j}", block, x)
    features = _width(builder, "final_conv.width", model.final_conv)
    builder.conv_norm("final_conv", features, x)
    builder.layer("head.fc", axis(model.num_classes), features)
    for module in ("", "head"):
        builder.attribute(module, "num_features", "final_conv.width")
    builder.attribute("", "head_hidden_size", "final_conv.width")
    builder.attribute("head", "in_features", "final_conv.width")
    return builder.build()


def _width(builder: Builder, name: str, layer: Any) -> Axis:
    return axis(builder.dimension(name, "width", layer.conv.out_channels))


def _inverted_residual(builder: Builder, name: str, block: BottleneckBlock, x: Axis) -> Axis:
    assert block.shortcut is None or isinstance(block.shortcut, nn.Identity), f"{name}: the shortcut has a convolution"
    expanded = _width(builder, f"{name}.expanded", block.conv1_1x1)
    out = _width(builder, f"{name}.width", block.conv3_1x1) if block.shortcut is None else x
    builder.conv_norm(f"{name}.conv1_1x1", expanded, x)
    builder.conv_norm(f"{name}.conv2_kxk", expanded)
    builder.conv_norm(f"{name}.conv3_1x1", out, expanded)
    return out


def _mobilevit_block(builder: Builder, name: str, block: Any, x: Axis) -> Axis:
    local = _width(builder, f"{name}.local", block.conv_kxk)
    builder.conv_norm(f"{name}.conv_kxk", local, x)
    embedding = axis(builder.dimension(f"{name}.embedding", "embedding", block.conv_1x1.out_channels))
    builder.layer(f"{name}.conv_1x1", embedding, local)
    for i, transformer_block in enumerate(block.transformer):
        describe_block(builder, f"{name}.transformer.{i}", transformer_block, embedding)
    builder.layer(f"{name}.norm", embedding)
    is_residual = getattr(block, "fusion_norm", None) is not None
    returned = x if is_residual else _width(builder, f"{name}.returned", block.conv_proj)
    builder.conv_norm(f"{name}.conv_proj", returned, embedding)
    builder.layer(f"{name}.fusion_norm", returned)
    if block.conv_fusion is None:
        return returned
    out = _width(builder, f"{name}.width", block.conv_fusion)
    builder.conv_norm(f"{name}.conv_fusion", out, (*x, *returned))
    return out
