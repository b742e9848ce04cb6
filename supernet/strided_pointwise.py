"""Strided 1x1 convolutions of few channels, whose gradient oneDNN writes past its workspace.

With channels last, on a CPU, the gradient of the weights of such a convolution corrupts memory where its input has
fewer channels than a vector register (https://github.com/uxlfoundation/oneDNN/issues/6035; in PyTorch up to 2.15 at
least). MobileOne's stem has one, as a branch: training it ends in a crash, or goes on with wrong numbers.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

VECTOR = 16  # float32 numbers of the widest register


class StridedPointwise(nn.Conv2d):
    """Takes every `stride`-th pixel first, then convolves with a stride of 1: the same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias)


def mend_strided_pointwise(module: nn.Module) -> nn.Module:
    """Makes all such convolutions in the module `StridedPointwise`, in place: its tensors and their names stay."""
    for part in module.modules():
        if (
            type(part) is nn.Conv2d
            and part.kernel_size == (1, 1)
            and part.stride != (1, 1)
            and part.padding in ((0, 0), "valid")
            and part.groups == 1
            and part.in_channels < VECTOR
        ):
            part.__class__ = StridedPointwise
    return module
