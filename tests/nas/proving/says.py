"""Networks whose answers are known, to tell which precision is asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Says(nn.Module):
    """The same label of each image."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(torch.full((len(x),), self.label), 10).float()


def says_1_in_int8(_model: nn.Module, ranges: Sequence[Tensor]) -> nn.Module:
    """In place of `quantized`; ranges are to be of 256 images."""
    assert sum(map(len, ranges)) == 256
    return Says(1)
