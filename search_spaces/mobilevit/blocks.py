"""MobileViT's convolutions and inverted residuals, each one row of a latency table."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from search_spaces.block import BlockSpec
from search_spaces.cost import Activation, Op, conv_norm, in_place

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Convolution(BlockSpec):
    """Convolution, norm, SiLU: the stem, and the 1x1 one before the classifier."""

    in_chs: int
    out_chs: int
    kernel: int
    stride: int
    resolution: int

    kind = "convolution"
    chainable = False

    @property
    def variant(self) -> str:
        return f"w{self.in_chs}to{self.out_chs}"

    @property
    def detail(self) -> str:
        return f"{self.kernel}x{self.kernel}"

    @property
    def _out_size(self) -> int:
        return ceil(self.resolution / self.stride)

    def input_shape(self) -> tuple[int, int, int]:
        return self.in_chs, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int, int]:
        return self.out_chs, self._out_size, self._out_size

    def ops(self) -> tuple[Op, ...]:
        return conv_norm(self.in_chs, self.out_chs, self.kernel, self._out_size)

    def activations(self) -> tuple[Activation, ...]:
        return (Activation("out", self.out_chs * self._out_size**2, ("x",)),)

    def build(self) -> nn.Module:
        from search_spaces.mobilevit import modules

        return modules.convolution(self.in_chs, self.out_chs, self.kernel, self.stride)


@dataclass(frozen=True)
class InvertedResidual(BlockSpec):
    """MobileNetV2's: 1x1 to `expansion` times the channels, 3x3 depthwise, 1x1; plus the input where shapes match."""

    in_chs: int
    out_chs: int
    expansion: int
    stride: int
    resolution: int

    kind = "inverted_residual"

    @property
    def chainable(self) -> bool:
        return self.in_chs == self.out_chs and self.stride == 1

    @property
    def variant(self) -> str:
        return f"w{self.in_chs}to{self.out_chs}e{self.expansion}"

    @property
    def detail(self) -> str:
        return f"expansion {self.expansion}"

    @property
    def _out_size(self) -> int:
        return ceil(self.resolution / self.stride)

    def input_shape(self) -> tuple[int, int, int]:
        return self.in_chs, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int, int]:
        return self.out_chs, self._out_size, self._out_size

    def ops(self) -> tuple[Op, ...]:
        hidden = self.in_chs * self.expansion
        return (
            *conv_norm(self.in_chs, hidden, 1, self.resolution),
            *conv_norm(hidden, hidden, 3, self._out_size, groups=hidden),
            *conv_norm(hidden, self.out_chs, 1, self._out_size),
        )

    def activations(self) -> tuple[Activation, ...]:
        hidden = self.in_chs * self.expansion
        return (
            Activation("hidden", hidden * self.resolution**2, ("x",)),
            Activation("mixed", hidden * self._out_size**2, ("hidden",)),
            Activation("out", self.out_chs * self._out_size**2, ("mixed",)),
            *((in_place("out", "x"),) if self.residual else ()),
        )

    def norm_start(self, norm: str) -> tuple[float, float]:
        """Residual branches begin silent, as in timm's network."""
        return 0.0 if self.residual and norm == "conv3_1x1.bn" else 1.0, 0.0

    def build(self) -> nn.Module:
        from search_spaces.mobilevit import modules

        return modules.InvertedResidual(self.in_chs, self.out_chs, self.expansion, self.stride)
