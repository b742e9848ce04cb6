"""Blocks whose strides are taken away, and those behind them, whose kernels then reach as far as they did."""

from __future__ import annotations

from timm.layers import AvgPool2dSame, to_2tuple
from torch import nn

# What timm (`byobnet`) and the authors (ml-cvnets, `mobilevit_block.py`) leave as it is: the convolution that fuses a
# MobileViT block with its input; and what is convolved within EfficientViT's windows, which keep their size.
UNDILATED = ("conv_fusion", "attn.dws")


def take_strides(module: nn.Module, before: int, after: int) -> None:
    """Makes all strides of a block 1, in place, and spreads its kernels: they see every so many positions of a map that
    is as much finer, `before` up to the stride that it had, `after` behind it.

    As timm's convolutional networks have it, with their `output_stride`.
    """
    rate = before
    for name, part in module.named_modules():
        if not isinstance(part, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            continue
        strided = part.stride not in (1, (1, 1))
        if isinstance(part, nn.Conv2d) and not any(kept in name for kept in UNDILATED):
            _dilate(part, before if strided else rate)
        if strided:
            part.stride, rate = (1, 1), after
            if type(part) is nn.AvgPool2d and part.padding == 0:  # in front of a shortcut, as timm's `resnet` has it
                part.__class__, part.kernel_size = AvgPool2dSame, to_2tuple(part.kernel_size)


def _dilate(conv: nn.Conv2d, rate: int) -> None:
    if rate == 1 or max(conv.kernel_size) == 1:
        return
    conv.dilation = (rate, rate)
    if not isinstance(conv.padding, str):  # that of timm's `Conv2dSame` is 0: it pads as it runs
        conv.padding = (rate * conv.padding[0], rate * conv.padding[1])
