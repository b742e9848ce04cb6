"""EfficientViT's blocks, each one row of a latency table: what they cost as they are deployed, norms folded.

Operators and activations are those of timm's modules (`timm.models.efficientvit_msra`), which `build` returns.

A stage's channels are those of its attentions' heads, one behind the other: `width` is `heads` times `head_width`. A
smaller network has the first heads, and of each its first channels, so that what a head sees remains what it saw.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from search_spaces.block import BlockSpec, HeadSpec
from search_spaces.cost import Activation, Conv, Matmul, Op, Weights, in_place
from search_spaces.layout import Axis, Layout, axis

if TYPE_CHECKING:
    from torch import nn

UNSTRIDED = {4: ("conv3", "conv4"), 8: ("conv4",), 16: ()}  # of the stem's convolutions, by its stride
MERGING_EXPANSION = 4
CHANNELS = axis(("heads", "head_width"))


def axes_of(name: str, out: Axis, *into: Axis) -> dict[str, tuple[Axis, ...]]:
    """Axes of a convolution without bias and its norm."""
    norm = {f"{name}.bn.{entry}": (out,) for entry in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.conv.weight": (out, *into), **norm}


@dataclass(frozen=True)
class Stem(BlockSpec):
    """Four 3x3 convolutions to an eighth, a quarter, half and all of the channels; the first ones halve the image."""

    training_only = frozenset({"heads"})

    in_chs: int
    width: int
    heads: int
    image_size: int
    stride: int

    kind = "stem"
    chainable = False

    @property
    def variant(self) -> str:
        return f"w{self.width}h{self.heads}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.in_chs, self.image_size, self.image_size

    def output_shape(self) -> tuple[int, int, int]:
        return self.width, self.image_size // self.stride, self.image_size // self.stride

    @property
    def _maps(self) -> list[tuple[int, int]]:
        """(channels, height) of each convolution's output."""
        return [(self.width * 2**i // 8, self.image_size // min(2 ** (i + 1), self.stride)) for i in range(4)]

    def ops(self) -> tuple[Op, ...]:
        before = (self.in_chs, *(width for width, _ in self._maps))
        return tuple(Conv(c, width, 3, size) for c, (width, size) in zip(before, self._maps, strict=False))

    def activations(self) -> tuple[Activation, ...]:
        names = ("x", "1", "2", "3", "4")
        return tuple(
            Activation(name, width * size**2, (before,))
            for before, name, (width, size) in zip(names, names[1:], self._maps, strict=False)
        )

    def layout(self) -> Layout:
        return Layout(_channels(self.width, self.heads), axes_of("conv4", CHANNELS))

    def build(self) -> nn.Module:
        from search_spaces.efficientvit import modules

        return modules.stem(self.in_chs, self.width, UNSTRIDED[self.stride])


@dataclass(frozen=True)
class Residual(BlockSpec):
    """Adds to its input of `width` channels what a branch makes of it."""

    training_only = frozenset({"heads", "silent"})

    width: int
    heads: int
    resolution: int

    chainable = True

    @property
    def variant(self) -> str:
        return f"w{self.width}h{self.heads}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.width, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int, int]:
        return self.input_shape()

    @property
    def _elements(self) -> int:
        return self.width * self.resolution**2

    @property
    @abstractmethod
    def silent_norm(self) -> str:
        """Name of the norm that begins with 0, so that the block begins as its input; empty if none does."""

    def norm_start(self, norm: str) -> tuple[float, float]:
        """As timm has it. Networks of different depths, which share weights, begin alike."""
        return 0.0 if norm == self.silent_norm else 1.0, 0.0


@dataclass(frozen=True)
class Depthwise(Residual):
    """A 3x3 depthwise convolution, the local interaction of tokens before each FFN."""

    silent: bool

    kind = "depthwise"

    @property
    def silent_norm(self) -> str:
        return "m.bn" if self.silent else ""

    def ops(self) -> tuple[Op, ...]:
        return (Conv(self.width, self.width, 3, self.resolution, groups=self.width),)

    def activations(self) -> tuple[Activation, ...]:
        return Activation("out", self._elements, ("x",)), in_place("out", "x")

    def layout(self) -> Layout:
        return Layout(_channels(self.width, self.heads), axes_of("m", CHANNELS))

    def build(self) -> nn.Module:
        from search_spaces.efficientvit import modules

        return modules.depthwise(self.width, self.silent)


@dataclass(frozen=True)
class Ffn(Residual):
    """1x1 convolution to `expansion` times the channels, ReLU, and one back."""

    expansion: int

    kind = "ffn"
    silent_norm = "m.pw2.bn"

    @property
    def variant(self) -> str:
        return f"{super().variant}e{self.expansion}"

    @property
    def detail(self) -> str:
        return f"expansion {self.expansion}"

    @property
    def _hidden(self) -> int:
        return self.width * self.expansion

    def ops(self) -> tuple[Op, ...]:
        return (
            Conv(self.width, self._hidden, 1, self.resolution),
            Conv(self._hidden, self.width, 1, self.resolution),
        )

    def activations(self) -> tuple[Activation, ...]:
        hidden = Activation("hidden", self.expansion * self._elements, ("x",))
        return hidden, Activation("out", self._elements, ("hidden",)), in_place("out", "x")

    def layout(self) -> Layout:
        hidden = axis("hidden")
        return Layout(
            {**_channels(self.width, self.heads), "hidden": self._hidden},
            axes_of("m.pw1", hidden, CHANNELS) | axes_of("m.pw2", CHANNELS, hidden),
        )

    def build(self) -> nn.Module:
        from search_spaces.efficientvit import modules

        return modules.ffn(self.width, self._hidden)


@dataclass(frozen=True)
class Attention(Residual):
    """Cascaded group attention (Liu et al. 2023, Fig. 6) within windows of `window` x `window` positions.

    Head i computes on its `head_width` channels, to which the output of the head before is added: queries and keys of
    `key` channels, the queries passed through a depthwise convolution of kernel `kernels[i]`, and values of
    `head_width` channels.
    """

    training_only = frozenset()

    key_dim: int
    kernels: tuple[int, ...]
    window: int

    kind = "attention"
    silent_norm = "m.attn.proj.1.bn"

    @property
    def variant(self) -> str:
        return f"{super().variant}k{self.key_dim}"

    @property
    def detail(self) -> str:
        return f"{self.heads} heads, keys of {self.key_dim}, kernels {', '.join(map(str, self.kernels))}"

    @property
    def _head_width(self) -> int:
        return self.width // self.heads

    @property
    def _side(self) -> int:
        """Height of a window: the whole map where that is smaller."""
        return min(self.window, self.resolution)

    @property
    def _padded(self) -> int:
        """Height of the map that the windows fill."""
        return ceil(self.resolution / self._side) * self._side

    def ops(self) -> tuple[Op, ...]:
        return (
            *(op for kernel in self.kernels for op in self._head_ops(kernel)),
            Weights(self.heads * self._side**2),  # attention bias, one for each distance
            Conv(self.width, self.width, 1, self._padded),
        )

    def _head_ops(self, kernel: int) -> tuple[Op, ...]:
        windows, tokens, width = (self._padded // self._side) ** 2, self._side**2, self._head_width
        return (
            Conv(width, 2 * self.key_dim + width, 1, self._padded),
            Conv(self.key_dim, self.key_dim, kernel, self._padded, groups=self.key_dim),
            Matmul(windows, tokens, self.key_dim, tokens),
            Matmul(windows, tokens, tokens, width),
        )

    def activations(self) -> tuple[Activation, ...]:
        windowed, cropped = self._side < self.resolution, self._padded > self.resolution
        inner, outer = ("windows" if windowed else "x"), ("cropped" if cropped else "out")
        elements = self.width * self._padded**2
        return (
            *((Activation("windows", elements, ("x",)),) if windowed else ()),
            *(activation for i in range(self.heads) for activation in self._head_activations(i, inner)),
            Activation("heads", elements, tuple(f"head {i}" for i in range(self.heads))),
            Activation("out", elements, ("heads",)),
            *((Activation("cropped", self._elements, ("out",)),) if cropped else ()),
            in_place(outer, "x"),
        )

    def _head_activations(self, i: int, inner: str) -> tuple[Activation, ...]:
        windows, tokens, positions = (self._padded // self._side) ** 2, self._side**2, self._padded**2
        qkv, query, scores, into = f"qkv {i}", f"query {i}", f"scores {i}", f"into {i}"
        width = self._head_width * positions
        return (
            *((Activation(into, width, (f"head {i - 1}", inner)),) if i else ()),
            Activation(qkv, width + 2 * self.key_dim * positions, (into if i else inner,)),
            Activation(query, self.key_dim * positions, (qkv,)),
            Activation(scores, windows * tokens**2, (query, qkv)),
            Activation(f"head {i}", width, (qkv, scores)),
        )

    def layout(self) -> Layout:
        key, width = axis("key"), axis("head_width")
        axes = axes_of("m.attn.proj.1", CHANNELS, CHANNELS)
        for i in range(self.heads):
            axes |= axes_of(f"m.attn.qkvs.{i}", axis("key", "key", "head_width"), width)
            axes |= axes_of(f"m.attn.dws.{i}", key)
        return Layout({**_channels(self.width, self.heads), "key": self.key_dim}, axes)

    def build(self) -> nn.Module:
        from search_spaces.efficientvit import modules

        return modules.attention(self.heads, self._head_width, self.key_dim, self.kernels, self.resolution, self.window)


@dataclass(frozen=True)
class Merging(BlockSpec):
    """Between stages: an inverted residual of expansion 4 and stride 2, with squeeze-and-excitation, no shortcut."""

    training_only = frozenset({"in_heads", "out_heads"})

    in_chs: int
    in_heads: int
    out_chs: int
    out_heads: int
    resolution: int

    kind = "merging"
    chainable = False

    @property
    def variant(self) -> str:
        return f"w{self.in_chs}h{self.in_heads}to{self.out_chs}h{self.out_heads}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.in_chs, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int, int]:
        return self.out_chs, self._half, self._half

    @property
    def _half(self) -> int:
        return ceil(self.resolution / 2)

    @property
    def _hidden(self) -> int:
        return MERGING_EXPANSION * self.in_chs

    @property
    def _squeezed(self) -> int:
        """Channels between the two layers of squeeze-and-excitation: a quarter, as timm rounds it."""
        return max(8, (self._hidden // 4 + 4) // 8 * 8)

    def ops(self) -> tuple[Op, ...]:
        return (
            Conv(self.in_chs, self._hidden, 1, self.resolution),
            Conv(self._hidden, self._hidden, 3, self._half, groups=self._hidden),
            Conv(self._hidden, self._squeezed, 1, 1),
            Conv(self._squeezed, self._hidden, 1, 1),
            Conv(self._hidden, self.out_chs, 1, self._half),
        )

    def activations(self) -> tuple[Activation, ...]:
        return (
            Activation("hidden", self._hidden * self.resolution**2, ("x",)),
            Activation("strided", self._hidden * self._half**2, ("hidden",)),
            Activation("pooled", self._hidden, ("strided",)),
            Activation("squeezed", self._squeezed, ("pooled",)),
            Activation("gate", self._hidden, ("squeezed",)),
            in_place("strided", "gate"),
            Activation("out", self.out_chs * self._half**2, ("strided",)),
        )

    def layout(self) -> Layout:
        sizes = {
            **_channels(self.in_chs, self.in_heads, "in_"),
            **_channels(self.out_chs, self.out_heads),
            "hidden": self._hidden,
        }
        hidden, into = axis("hidden"), axis(("in_heads", "in_head_width"))
        return Layout(sizes, axes_of("conv1", hidden, into) | axes_of("conv3", CHANNELS, hidden))

    def build(self) -> nn.Module:
        from search_spaces.efficientvit import modules

        return modules.merging(self.in_chs, self.out_chs)


@dataclass(frozen=True)
class Head(HeadSpec):
    """Average pool, norm and a linear classifier."""

    training_only = frozenset({"heads"})

    heads: int

    @property
    def variant(self) -> str:
        return f"w{self.width}h{self.heads}"

    def layout(self) -> Layout:
        norm = {f"head.bn.{entry}": (CHANNELS,) for entry in ("weight", "bias", "running_mean", "running_var")}
        classes = axis(self.num_classes)
        return Layout(_channels(self.width, self.heads), {**norm, "head.linear.weight": (classes, CHANNELS)})

    def build(self) -> nn.Module:
        from search_spaces.efficientvit import modules

        return modules.head(self.width, self.num_classes)


def _channels(width: int, heads: int, prefix: str = "") -> dict[str, int]:
    """The sizes of a stage's channels."""
    return {f"{prefix}heads": heads, f"{prefix}head_width": width // heads}
