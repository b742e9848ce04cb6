"""Convolutions that oneDNN, PyTorch's library on a CPU, gets wrong or is slow at, computed another way.

Strided 1x1 ones of few channels: with channels last, the gradient of their weights is written past its workspace where
the input has fewer channels than a vector register (https://github.com/uxlfoundation/oneDNN/issues/6035; in PyTorch up
to 2.15 at least). MobileOne's stem has one, as a branch: training it ends in a crash, or goes on with wrong numbers.

Depthwise ones on small maps, as the last stages of every network for phones have them: the gradient of a 5x5 kernel's
weights takes ten to forty times as long as the convolution (in PyTorch 2.15).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VECTOR = 16  # float32 numbers of the widest register
SMALL = 64  # pixels of a map: 8x8


class StridedPointwise(nn.Conv2d):
    """Takes every `stride`-th pixel first, then convolves with a stride of 1: the same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias)


class SmallDepthwise(nn.Conv2d):
    """Depthwise: on small maps its weights' gradient is a product of matrices, the same but for rounding."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        slow = self.kernel_size[0] > 3 or height < self.kernel_size[0]
        if not (slow and height * width <= SMALL and torch.is_grad_enabled() and _is_plain(x)):
            return super().forward(x)
        y: Tensor = _Depthwise.apply(x, self.weight, self.stride, self.padding)
        return y if self.bias is None else y + self.bias[:, None, None]


def _is_plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class _Depthwise(torch.autograd.Function):
    """With x and y as (C, pixels, B) and (C, B, pixels), x y is the weight's gradient, spread over pairs of pixels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            how = (ctx.stride, ctx.padding, [1, 1], False, [0, 0], len(weight), [True, False, False])
            of_x = torch.ops.aten.convolution_backward(grad, x, weight, None, *how)[0]
        if ctx.needs_input_grad[1]:
            # of tensors with channels last, bmm copies the matrices of each channel by themselves
            of_pixels, of_outputs = (t.contiguous().flatten(2) for t in (x, grad))
            pairs = torch.bmm(of_pixels.permute(1, 2, 0), of_outputs.permute(1, 0, 2)).flatten(1)
            shapes = (*x.shape[-2:], *grad.shape[-2:], *weight.shape[-2:])
            of_weight = (pairs @ _taps(shapes, ctx.stride, ctx.padding)).view_as(weight)
        return of_x, of_weight, None, None


@cache
def _taps(shapes: tuple[int, ...], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """1 where the kernel's position takes the first pixel of a pair to the second: (pixels in * out, positions)."""
    rows, columns, rows_out, columns_out, high, wide = shapes
    down = _meeting(rows, rows_out, high, stride[0], padding[0])
    across = _meeting(columns, columns_out, wide, stride[1], padding[1])
    return torch.einsum("aci,bdj->abcdij", down, across).reshape(-1, high * wide)


def _meeting(before: int, after: int, kernel: int, stride: int, padding: int) -> Tensor:
    """1 where the kernel's position k takes pixel a of a line to pixel b of the output's: (before, after, kernel)."""
    a, b, k = torch.meshgrid(torch.arange(before), torch.arange(after), torch.arange(kernel), indexing="ij")
    return (a + padding == b * stride + k).float()


def mend_convolutions(module: nn.Module) -> nn.Module:
    """Makes all such convolutions in the module `StridedPointwise` or `SmallDepthwise`, in place.

    Their tensors and names stay.
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and (kind := _mended(part)):
            part.__class__ = kind
    return module


def _mended(conv: nn.Conv2d) -> type[nn.Conv2d] | None:
    pointwise = conv.kernel_size == (1, 1) and conv.padding in ((0, 0), "valid") and conv.groups == 1
    if pointwise and conv.stride != (1, 1) and conv.in_channels < VECTOR:
        return StridedPointwise
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    plain = conv.dilation == (1, 1) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return SmallDepthwise if depthwise and plain and conv.kernel_size != (1, 1) else None
