"""The parts of a MobileViT block, each one row of a latency table.

A MobileViT block is `Local`, an `Attention` and an `Ffn` for each layer, `Projection` and, where it is fused with its
input, `Fusion` (Mehta and Rastegari 2022, Fig. 1b). That input is handed on from the first to the last beside what they
compute; those between hold it in memory. Operators and activations are those of timm's modules.

Shapes: C channels of a map, R its height and width, d the transformer's width, T tokens, which are the pixels of the
map resized to whole patches: of P sequences (one for each place in a patch) T / P tokens each (one for each patch).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from search_spaces.block import BlockSpec
from search_spaces.cost import Activation, Conv, Linear, Matmul, Op, Weights, conv_norm, in_place
from search_spaces.layout import Layout, axis
from search_spaces.mobilevit.published import HEADS

if TYPE_CHECKING:
    from torch import nn


def whole_patches(resolution: int, patch: int) -> int:
    """Height and width of a map resized to whole patches."""
    return ceil(resolution / patch) * patch


@dataclass(frozen=True)
class Local(BlockSpec):
    """The local representation as tokens: 3x3 convolution, 1x1 to d channels, unfolding."""

    untimed = frozenset({"kept"})

    width: int
    dim: int
    patch: int
    resolution: int
    kept: bool = field(compare=False)

    kind = "local"
    chainable = False

    @property
    def variant(self) -> str:
        return f"w{self.width}"

    @property
    def detail(self) -> str:
        return f"patches {self.patch}x{self.patch}"

    @property
    def keeps_input(self) -> bool:
        return self.kept

    def input_shape(self) -> tuple[int, int, int]:
        return self.width, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int]:
        return whole_patches(self.resolution, self.patch) ** 2, self.dim

    def ops(self) -> tuple[Op, ...]:
        return (
            *conv_norm(self.width, self.width, 3, self.resolution),
            Conv(self.width, self.dim, 1, self.resolution, bias=False),
        )

    def activations(self) -> tuple[Activation, ...]:
        tokens = self.output_shape()[0]
        return (
            Activation("local", self.width * self.resolution**2, ("x",)),
            Activation("projected", self.dim * self.resolution**2, ("local",)),
            *((Activation("resized", self.dim * tokens, ("projected",)),) if tokens > self.resolution**2 else ()),
        )

    def build(self) -> nn.Module:
        from search_spaces.mobilevit import modules

        return modules.Local(self.width, self.dim, self.patch)


@dataclass(frozen=True)
class Attention(BlockSpec):
    """Residual self-attention within each sequence of tokens, layer normalization before it.

    Args:
        held: elements of the map that is fused later.
    """

    untimed = frozenset({"held"})

    dim: int
    heads: int
    sequences: int
    tokens: int
    held: int = field(compare=False)

    kind = "attention"
    chainable = True

    @property
    def variant(self) -> str:
        return f"d{self.dim}h{self.heads}"

    @property
    def detail(self) -> str:
        return f"{self.heads} heads, {self.sequences} sequences"

    @property
    def elements_held(self) -> int:
        return self.held

    @property
    def _inner(self) -> int:
        """Features of all heads together."""
        return self.heads * (self.dim // HEADS)

    def input_shape(self) -> tuple[int, int]:
        return self.tokens, self.dim

    def output_shape(self) -> tuple[int, int]:
        return self.input_shape()

    def ops(self) -> tuple[Op, ...]:
        batch, length, key = self.heads * self.sequences, self.tokens // self.sequences, self.dim // HEADS
        return (
            Weights(2 * self.dim),
            Linear(self.dim, 3 * self._inner, self.tokens),
            Matmul(batch, length, key, length),
            Matmul(batch, length, length, key),
            Linear(self._inner, self.dim, self.tokens),
        )

    def activations(self) -> tuple[Activation, ...]:
        """The attention itself is one operator, as in PyTorch."""
        return (
            Activation("normed", self.tokens * self.dim, ("x",)),
            Activation("qkv", 3 * self.tokens * self._inner, ("normed",)),
            Activation("mixed", self.tokens * self._inner, ("qkv",)),
            Activation("out", self.tokens * self.dim, ("mixed",)),
            in_place("out", "x"),
        )

    def layout(self) -> Layout:
        inner, width = ("heads", "key"), axis("dim")
        fused = axis((3, *inner))
        return Layout(
            {"dim": self.dim, "heads": self.heads, "key": self.dim // HEADS},
            {"attn.qkv.weight": (fused, width), "attn.qkv.bias": (fused,), "attn.proj.weight": (width, axis(inner))},
        )

    def build(self) -> nn.Module:
        from search_spaces.mobilevit import modules

        return modules.Attention(self.dim, self.heads, self.sequences)


@dataclass(frozen=True)
class Ffn(BlockSpec):
    """Residual FFN of the tokens: d to d · ratio features and back, layer normalization before it."""

    untimed = frozenset({"held"})

    dim: int
    ratio: int
    tokens: int
    held: int = field(compare=False)

    kind = "ffn"
    chainable = True

    @property
    def variant(self) -> str:
        return f"d{self.dim}r{self.ratio}"

    @property
    def detail(self) -> str:
        return f"ratio {self.ratio}"

    @property
    def elements_held(self) -> int:
        return self.held

    def input_shape(self) -> tuple[int, int]:
        return self.tokens, self.dim

    def output_shape(self) -> tuple[int, int]:
        return self.input_shape()

    def ops(self) -> tuple[Op, ...]:
        hidden = self.dim * self.ratio
        return (
            Weights(2 * self.dim),
            Linear(self.dim, hidden, self.tokens),
            Linear(hidden, self.dim, self.tokens),
        )

    def activations(self) -> tuple[Activation, ...]:
        elements = self.tokens * self.dim
        return (
            Activation("normed", elements, ("x",)),
            Activation("hidden", self.ratio * elements, ("normed",)),
            Activation("out", elements, ("hidden",)),
            in_place("out", "x"),
        )

    def build(self) -> nn.Module:
        from search_spaces.mobilevit import modules

        return modules.Ffn(self.dim, self.ratio)


@dataclass(frozen=True)
class Projection(BlockSpec):
    """The tokens as a map: layer normalization, folding, 1x1 convolution to C channels.

    Args:
        fused: the map that came with the tokens is handed on.
        held: its elements.
    """

    untimed = frozenset({"fused", "held"})

    dim: int
    width: int
    patch: int
    resolution: int
    fused: bool
    held: int = field(compare=False)

    kind = "projection"
    chainable = False

    @property
    def variant(self) -> str:
        return f"d{self.dim}w{self.width}"

    @property
    def detail(self) -> str:
        return f"patches {self.patch}x{self.patch}"

    @property
    def elements_held(self) -> int:
        return self.held

    def input_shape(self) -> tuple[int, int]:
        return whole_patches(self.resolution, self.patch) ** 2, self.dim

    def output_shape(self) -> tuple[int, int, int]:
        return self.width, self.resolution, self.resolution

    def ops(self) -> tuple[Op, ...]:
        return Weights(2 * self.dim), *conv_norm(self.dim, self.width, 1, self.resolution)

    def activations(self) -> tuple[Activation, ...]:
        pixels = self.resolution**2
        resized = Activation("resized", self.dim * pixels, ("x",)) if self.input_shape()[0] > pixels else None
        out = Activation("out", self.width * pixels, (resized.name if resized else "x",))
        return (resized, out) if resized else (out,)

    def build(self) -> nn.Module:
        from search_spaces.mobilevit import modules

        return modules.Projection(self.dim, self.width, self.patch, self.resolution, self.fused)


@dataclass(frozen=True)
class Fusion(BlockSpec):
    """The map that the block was given and what was made of it: concatenated and convolved, or added and normalized.

    By itself, in a chain of its like, it fuses a map with itself.
    """

    width: int
    resolution: int
    is_residual: bool

    kind = "fusion"
    chainable = True
    residual = False

    @property
    def variant(self) -> str:
        return f"w{self.width}"

    @property
    def detail(self) -> str:
        return "residual" if self.is_residual else "concatenation, 3x3"

    @property
    def elements_held(self) -> int:
        return self.width * self.resolution**2

    def input_shape(self) -> tuple[int, int, int]:
        return self.width, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int, int]:
        return self.input_shape()

    def ops(self) -> tuple[Op, ...]:
        if self.is_residual:
            return (Weights(2 * self.width),)
        return conv_norm(2 * self.width, self.width, 3, self.resolution)

    def activations(self) -> tuple[Activation, ...]:
        elements = self.width * self.resolution**2
        if self.is_residual:
            return (in_place("x"),)
        return Activation("both", 2 * elements, ("x",)), Activation("out", elements, ("both",))

    def layout(self) -> Layout:
        both = {} if self.is_residual else {"conv_fusion.conv.weight": (axis("width"), axis("width", "width"))}
        return Layout({"width": self.width}, both)

    def build(self) -> nn.Module:
        from search_spaces.mobilevit import modules

        return modules.Fusion(self.width, self.is_residual)
