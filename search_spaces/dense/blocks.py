"""Parts of heads as blocks of a network, and blocks that let these parts' outputs pass by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from search_spaces.block import BlockSpec
from search_spaces.cost import Activation, Conv, Op, conv_norm
from search_spaces.dense.plans import POOLED_CHANNELS, PYRAMID_CHANNELS
from search_spaces.layout import Layout

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Passing(BlockSpec):
    """A block that runs on its input, as it does alone, and lets `held` elements of the head's outputs pass by."""

    block: BlockSpec
    held: int

    @classmethod
    def of(cls, block: BlockSpec, held: int) -> Passing:
        return cls(block.name, replace(block, name=""), held)

    @property
    def kind(self) -> str:
        return self.block.kind

    @property
    def variant(self) -> str:
        return self.block.variant

    @property
    def chainable(self) -> bool:
        return self.block.chainable

    @property
    def residual(self) -> bool:
        return self.block.residual

    @property
    def keeps_input(self) -> bool:
        return self.block.keeps_input

    @property
    def elements_held(self) -> int:
        return self.block.elements_held + self.held

    @property
    def detail(self) -> str:
        return self.block.detail

    @property
    def key(self) -> str:
        return self.block.key

    def input_shape(self) -> tuple[int, ...]:
        return self.block.input_shape()

    def output_shape(self) -> tuple[int, ...]:
        return self.block.output_shape()

    def ops(self) -> tuple[Op, ...]:
        return self.block.ops()

    def activations(self) -> tuple[Activation, ...]:
        return self.block.activations()

    def norm_start(self, norm: str) -> tuple[float, float]:
        return self.block.norm_start(norm)

    def layout(self) -> Layout:
        return self.block.layout()

    def build(self) -> nn.Module:
        from search_spaces.dense.passing import let_pass

        return let_pass(self.block.build())


@dataclass(frozen=True)
class _OfMap(BlockSpec):
    """A part of a head that takes a map (`in_chs`, `resolution`, `resolution`)."""

    in_chs: int
    resolution: int

    @property
    def variant(self) -> str:
        return f"w{self.in_chs}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.in_chs, self.resolution, self.resolution


@dataclass(frozen=True)
class Predictor(_OfMap):
    """SSDLite's head on a map: what it predicts is handed on, beside the map itself.

    Args:
        width: that it is projected to.
        columns: it predicts at each position, for all its default boxes.
        held: elements that are handed on to it.
    """

    untimed = frozenset({"held"})

    width: int
    columns: int
    held: int

    kind = "box_head"
    chainable = True
    residual = False

    @property
    def elements_held(self) -> int:
        return self.held

    @property
    def keeps_input(self) -> bool:
        return True

    def output_shape(self) -> tuple[int, int, int]:
        return self.input_shape()

    @property
    def _layers(self) -> dict[str, tuple[Op, ...]]:
        """What it has before the columns."""
        if self.width == POOLED_CHANNELS:
            return {}
        width, size = self.width, self.resolution
        projection = {} if self.in_chs == width else {"projection": conv_norm(self.in_chs, width, 1, size)}
        return {**projection, "depthwise": conv_norm(width, width, 3, size, width)}

    def ops(self) -> tuple[Op, ...]:
        columns = Conv(self.width, self.columns, 1, self.resolution)
        return *(op for ops in self._layers.values() for op in ops), columns

    def activations(self) -> tuple[Activation, ...]:
        area, source, found = self.resolution**2, "x", []
        for name in self._layers:
            found.append(Activation(name, self.width * area, (source,)))
            source = name
        return *found, Activation("columns", self.columns * area, (source,))

    def build(self) -> nn.Module:
        from search_spaces.dense import ssdlite

        return ssdlite.Predictor(self.in_chs, self.width, self.columns)


@dataclass(frozen=True)
class Extra(_OfMap):
    """SSDLite's further map, of half the size, made of the one before."""

    out_chs: int

    kind = "extra_map"
    chainable = False

    @property
    def _out_size(self) -> int:
        return -(-self.resolution // 2)

    def output_shape(self) -> tuple[int, int, int]:
        return self.out_chs, self._out_size, self._out_size

    def ops(self) -> tuple[Op, ...]:
        return (
            *conv_norm(self.in_chs, self.in_chs, 3, self._out_size, self.in_chs),
            *conv_norm(self.in_chs, self.out_chs, 1, self._out_size),
        )

    def activations(self) -> tuple[Activation, ...]:
        area = self._out_size**2
        return (
            Activation("depthwise", self.in_chs * area, ("x",)),
            Activation("out", self.out_chs * area, ("depthwise",)),
        )

    def build(self) -> nn.Module:
        from search_spaces.dense import ssdlite

        return ssdlite.extra(self.in_chs, self.out_chs)


@dataclass(frozen=True)
class Pooled(_OfMap):
    """The whole image as SSDLite's last map: the mean of the one before, and a 1x1 convolution."""

    out_chs: int

    kind = "pooled_map"
    chainable = False

    def output_shape(self) -> tuple[int, int, int]:
        return self.out_chs, 1, 1

    def ops(self) -> tuple[Op, ...]:
        return (Conv(self.in_chs, self.out_chs, 1, 1, bias=False),)

    def activations(self) -> tuple[Activation, ...]:
        return Activation("pooled", self.in_chs, ("x",)), Activation("out", self.out_chs, ("pooled",))

    def build(self) -> nn.Module:
        from search_spaces.dense import ssdlite

        return ssdlite.pooled(self.in_chs, self.out_chs)


@dataclass(frozen=True)
class Pyramid(_OfMap):
    """DeepLabv3's atrous spatial pyramid pooling."""

    rates: tuple[int, ...]

    kind = "aspp"
    chainable = False

    def output_shape(self) -> tuple[int, int, int]:
        return PYRAMID_CHANNELS, self.resolution, self.resolution

    def ops(self) -> tuple[Op, ...]:
        c, out, size = self.in_chs, PYRAMID_CHANNELS, self.resolution
        branches = [conv_norm(c, out, 1, size), *(conv_norm(c, out, 3, size) for _ in self.rates)]
        joined = (2 + len(self.rates)) * out
        parts = (*branches, conv_norm(c, out, 1, 1), conv_norm(joined, out, 1, size))
        return tuple(op for ops in parts for op in ops)

    def activations(self) -> tuple[Activation, ...]:
        each = PYRAMID_CHANNELS * self.resolution**2
        names = [f"branch{i}" for i in range(2 + len(self.rates))]
        branches = [Activation(name, each, ("x",)) for name in names]
        return *branches, Activation("joined", len(names) * each, tuple(names)), Activation("out", each, ("joined",))

    def build(self) -> nn.Module:
        from search_spaces.dense import deeplab

        return deeplab.pyramid(self.in_chs, self.rates)


@dataclass(frozen=True)
class PixelClassifier(BlockSpec):
    """DeepLabv3's 1x1 convolution to classes, and its resizing to the image."""

    num_classes: int
    resolution: int
    image_size: int

    kind = "pixel_classifier"
    chainable = False
    variant = ""

    def input_shape(self) -> tuple[int, int, int]:
        return PYRAMID_CHANNELS, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int, int]:
        return self.num_classes, self.image_size, self.image_size

    def ops(self) -> tuple[Op, ...]:
        return (Conv(PYRAMID_CHANNELS, self.num_classes, 1, self.resolution),)

    def activations(self) -> tuple[Activation, ...]:
        coarse = Activation("coarse", self.num_classes * self.resolution**2, ("x",))
        return coarse, Activation("logits", self.num_classes * self.image_size**2, ("coarse",))

    def build(self) -> nn.Module:
        from search_spaces.dense import deeplab

        return deeplab.PixelClassifier(self.num_classes, self.image_size)
