"""The blocks of MobileOne: what they cost as they are deployed, one convolution each."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from search_spaces.block import RECTIFIED_MEAN, BlockSpec
from search_spaces.cost import Activation, Conv, Op, in_place

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Block(BlockSpec):
    """A convolution, maybe squeeze-and-excitation, ReLU (Vasu et al. 2023, Fig. 3).

    While it is trained the convolution is a sum of `branches` convolutions of that shape, a 1x1 one beside those of
    3x3, and the input itself where shapes match, each normalized.
    """

    training_only = frozenset({"branches"})

    in_chs: int
    out_chs: int
    kernel: int
    stride: int
    depthwise: bool
    se: bool
    resolution: int
    branches: int

    @property
    def kind(self) -> str:
        return "depthwise" if self.depthwise else "pointwise" if self.kernel == 1 else "convolution"

    @property
    def variant(self) -> str:
        return f"w{self.in_chs}to{self.out_chs}k{self.branches}"

    @property
    def chainable(self) -> bool:
        return self.in_chs == self.out_chs and self.stride == 1

    @property
    def detail(self) -> str:
        return "squeeze-and-excitation" if self.se else ""

    @property
    def _out_size(self) -> int:
        return ceil(self.resolution / self.stride)

    @property
    def _squeezed(self) -> int:
        """Channels between the two layers of squeeze-and-excitation: a sixteenth, as timm rounds it."""
        return max(8, (self.out_chs // 16 + 4) // 8 * 8)

    def input_shape(self) -> tuple[int, int, int]:
        return self.in_chs, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int, int]:
        return self.out_chs, self._out_size, self._out_size

    def ops(self) -> tuple[Op, ...]:
        groups = self.in_chs if self.depthwise else 1
        conv = Conv(self.in_chs, self.out_chs, self.kernel, self._out_size, groups)
        if not self.se:
            return (conv,)
        return conv, Conv(self.out_chs, self._squeezed, 1, 1), Conv(self._squeezed, self.out_chs, 1, 1)

    def activations(self) -> tuple[Activation, ...]:
        out = Activation("out", self.out_chs * self._out_size**2, ("x",))
        if not self.se:
            return (out,)
        return (
            out,
            Activation("pooled", self.out_chs, ("out",)),
            Activation("squeezed", self._squeezed, ("pooled",)),
            Activation("gate", self.out_chs, ("squeezed",)),
            in_place("out", "gate"),
        )

    def norm_start(self, norm: str) -> tuple[float, float]:
        """Branches beside the input begin silent (zero-init, Goyal et al. 2017), and the input's own norm leaves it
        where it is: centred, half of it would be rectified away once more by each block. So it begins as its input.

        Networks of different depths, which share weights, then begin alike. Without it no network of a supernet learns,
        and deep ones hardly do by themselves.
        """
        if not self.residual:
            return 1.0, 0.0
        return (1.0, RECTIFIED_MEAN) if norm == "identity" else (0.0, 0.0)

    def build(self) -> nn.Module:
        from search_spaces.mobileone import modules

        return modules.Block(
            self.in_chs,
            self.out_chs,
            self.depthwise,
            self.se,
            kernel_size=self.kernel,
            stride=self.stride,
            num_conv_branches=self.branches,
        )
