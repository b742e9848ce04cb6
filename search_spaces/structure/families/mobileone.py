"""MobileOne (Vasu et al. 2023), as timm's `ByobNet` of `MobileOneBlock`s, before their branches are fused.

Depthwise and pointwise blocks alternate. A depthwise block keeps its channels, and so does a pointwise one with an
identity branch, which is all but the first of a stage: the channels of a stage are one dimension.
"""

from __future__ import annotations

from typing import Any

from timm.models.byobnet import ByobNet, MobileOneBlock
from torch import nn

from search_spaces.command import UserError
from search_spaces.layout import axis
from search_spaces.structure.base import Builder, Structure

MODELS = "MobileOne"


def is_member(model: nn.Module) -> bool:
    return isinstance(model, ByobNet) and all(isinstance(block, MobileOneBlock) for block in _blocks(model).values())


def prepare(model: nn.Module) -> None:
    """Changes nothing.

    Raises:
        UserError: of a model whose branches are fused.
    """
    if any(block.reparam_conv is not None for block in _blocks(model).values()):
        raise UserError("this MobileOne is already re-parameterized, its branches fused; give the unfused checkpoint")


def describe(model: Any) -> Structure:
    """Structure of a model, whole or pruned."""
    builder = Builder(model)
    channels = model.in_chans
    for name, block in _blocks(model).items():
        channels = _block(builder, name, block, channels)
    builder.layer("head.fc", axis(model.num_classes), axis(channels))
    for module in ("", "head"):
        builder.attribute(module, "num_features", channels)
    builder.attribute("", "head_hidden_size", channels)
    builder.attribute("head", "in_features", channels)
    return builder.build()


def _blocks(model: Any) -> dict[str, Any]:
    """The stem and all blocks by name, in the order of execution."""
    stages = {f"stages.{i}.{j}": block for i, stage in enumerate(model.stages) for j, block in enumerate(stage)}
    return {"stem": model.stem, **stages}


def _block(builder: Builder, name: str, block: Any, channels: str | int) -> str | int:
    """Adds a block of these input channels and returns its output channels."""
    conv = block.conv_kxk[0].conv
    # not told by its groups: with one channel left a depthwise convolution has one, as all others
    depthwise = name != "stem" and conv.kernel_size != (1, 1)
    into = None if depthwise else axis(channels)
    if depthwise:
        builder.attribute(name, "groups", channels)
    elif block.identity is None:
        channels = builder.dimension(f"{name}.width", "width", conv.out_channels)
    out = axis(channels)
    branches = ("conv_scale", *(f"conv_kxk.{i}" for i in range(block.num_conv_branches)))
    for branch in branches:
        builder.conv_norm(f"{name}.{branch}", out, into)
    builder.layer(f"{name}.identity", out)
    # deployed, a block is one convolution with a bias: as its first branch, of whose norm that bias remains
    norms = [f"{name}.{branch}.bn" for branch in branches] + [f"{name}.identity"]
    builder.merged(*(f"{name}.{branch}.conv.weight" for branch in branches if branch != "conv_kxk.0"))
    builder.merged(*(f"{norm}.weight" for norm in norms))
    builder.merged(*(f"{norm}.bias" for norm in norms if norm != f"{name}.conv_kxk.0.bn"))
    if not isinstance(block.attn, nn.Identity):
        builder.squeeze_excite(f"{name}.attn", out)
    return channels
