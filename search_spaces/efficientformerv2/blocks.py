"""EfficientFormerV2's blocks: stem, FFN, attention, downsampling and head, each one row of a latency table.

Operators and activations are those of timm's modules (`timm.models.efficientformer_v2`), which `build` returns.

Shapes: C channels (width) of a stage, E expansion, R height and width of a feature map, N tokens of an attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

from search_spaces.block import BlockSpec, HeadSpec
from search_spaces.cost import Activation, Conv, Linear, Matmul, Op, Weights, conv_norm, in_place

if TYPE_CHECKING:
    from torch import nn

HEADS = 8
KEY_DIM, DOWNSAMPLE_KEY_DIM = 32, 16
ATTN_RATIO = 4  # value channels of a head over its key channels


_conv_norm = partial(conv_norm, bias=True)


@dataclass(frozen=True)
class Stem(BlockSpec):
    """Two 3x3 convolutions, to C/2 and to C channels; the first of stride 2, the second of stride `stride` / 2."""

    in_chs: int
    width: int
    image_size: int
    stride: int

    kind = "stem"
    chainable = False

    @property
    def variant(self) -> str:
        return f"w{self.width}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.in_chs, self.image_size, self.image_size

    def output_shape(self) -> tuple[int, int, int]:
        return self.width, self.image_size // self.stride, self.image_size // self.stride

    def ops(self) -> tuple[Op, ...]:
        half = self.width // 2
        return (
            *_conv_norm(self.in_chs, half, 3, self.image_size // 2),
            *_conv_norm(half, self.width, 3, self.image_size // self.stride),
        )

    def activations(self) -> tuple[Activation, ...]:
        half = Activation("half", self.width // 2 * (self.image_size // 2) ** 2, ("x",))
        return half, Activation("out", self.width * (self.image_size // self.stride) ** 2, ("half",))

    def build(self) -> nn.Module:
        from search_spaces.efficientformerv2 import modules

        return modules.stem(self.in_chs, self.width, self.stride)


@dataclass(frozen=True)
class Ffn(BlockSpec):
    """Residual FFN: 1x1 to C·E channels, 3x3 depthwise, 1x1 back, layer scale."""

    width: int
    expansion: int
    resolution: int

    kind = "ffn"
    chainable = True

    @property
    def variant(self) -> str:
        return f"w{self.width}e{self.expansion}"

    @property
    def detail(self) -> str:
        return f"expansion {self.expansion}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.width, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int, int]:
        return self.input_shape()

    def ops(self) -> tuple[Op, ...]:
        hidden = self.width * self.expansion
        return (
            *_conv_norm(self.width, hidden, 1, self.resolution),
            *_conv_norm(hidden, hidden, 3, self.resolution, groups=hidden),
            *_conv_norm(hidden, self.width, 1, self.resolution),
            Weights(self.width),
        )

    def activations(self) -> tuple[Activation, ...]:
        width = self.width * self.resolution**2
        return (
            Activation("hidden", self.expansion * width, ("x",)),
            Activation("mixed", self.expansion * width, ("hidden",)),
            Activation("out", width, ("mixed",)),
            in_place("out", "x"),
        )

    def build(self) -> nn.Module:
        from search_spaces.efficientformerv2 import modules

        return modules.FfnBlock(self.width, self.expansion)


@dataclass(frozen=True)
class Attention(BlockSpec):
    """Residual multi-head self-attention with talking heads, at `stride` 2 in stage 3, layer scale."""

    width: int
    resolution: int
    stride: int

    kind = "attention"
    chainable = True

    @property
    def variant(self) -> str:
        return f"w{self.width}"

    @property
    def detail(self) -> str:
        return f"{HEADS} heads, stride {self.stride}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.width, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int, int]:
        return self.input_shape()

    def ops(self) -> tuple[Op, ...]:
        c, r = self.width, ceil(self.resolution / self.stride)
        tokens, keys, head_values = r * r, HEADS * KEY_DIM, ATTN_RATIO * KEY_DIM
        values = HEADS * head_values
        return (
            *(_conv_norm(c, c, 3, r, groups=c) if self.stride > 1 else ()),
            *_conv_norm(c, keys, 1, r),
            *_conv_norm(c, keys, 1, r),
            *_conv_norm(c, values, 1, r),
            *_conv_norm(values, values, 3, r, groups=values),
            Matmul(HEADS, tokens, KEY_DIM, tokens),
            Weights(HEADS * tokens),  # attention bias, one for each distance
            Conv(HEADS, HEADS, 1, tokens),  # talking heads, before and after the softmax
            Conv(HEADS, HEADS, 1, tokens),
            Matmul(HEADS, tokens, tokens, head_values),
            *_conv_norm(values, c, 1, self.resolution),
            Weights(c),
        )

    def activations(self) -> tuple[Activation, ...]:
        c, tokens = self.width, ceil(self.resolution / self.stride) ** 2
        keys, values, scores = HEADS * KEY_DIM * tokens, HEADS * ATTN_RATIO * KEY_DIM, HEADS * tokens**2
        strided = self.stride > 1
        inner, outer = ("strided", "upsampled") if strided else ("x", "mixed")
        return (
            *((Activation("strided", c * tokens, ("x",)),) if strided else ()),
            Activation("query", keys, (inner,)),
            Activation("key", keys, (inner,)),
            Activation("value", values * tokens, (inner,)),
            Activation("local", values * tokens, ("value",)),
            Activation("scores", scores, ("query", "key")),
            Activation("talking", scores, ("scores",)),
            Activation("weights", scores, ("talking",)),
            Activation("mixed", values * tokens, ("weights", "value")),
            in_place("mixed", "local"),
            *((Activation("upsampled", values * self.resolution**2, ("mixed",)),) if strided else ()),
            Activation("out", c * self.resolution**2, (outer,)),
            in_place("out", "x"),
        )

    def build(self) -> nn.Module:
        from search_spaces.efficientformerv2 import modules

        return modules.AttentionBlock(self.width, self.resolution, self.stride)


@dataclass(frozen=True)
class Downsample(BlockSpec):
    """3x3 convolution of stride 2, between stages 3 and 4 in parallel with an attention whose queries are strided."""

    in_chs: int
    out_chs: int
    resolution: int
    attention: bool

    chainable = False

    @property
    def kind(self) -> str:
        return "attention_downsample" if self.attention else "downsample"

    @property
    def variant(self) -> str:
        return f"w{self.in_chs}to{self.out_chs}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.in_chs, self.resolution, self.resolution

    def output_shape(self) -> tuple[int, int, int]:
        return self.out_chs, ceil(self.resolution / 2), ceil(self.resolution / 2)

    def ops(self) -> tuple[Op, ...]:
        r, half = self.resolution, ceil(self.resolution / 2)
        conv = _conv_norm(self.in_chs, self.out_chs, 3, half)
        if not self.attention:
            return conv
        keys, head_values = HEADS * DOWNSAMPLE_KEY_DIM, ATTN_RATIO * DOWNSAMPLE_KEY_DIM
        values = HEADS * head_values
        return (
            *conv,
            Conv(self.in_chs, self.in_chs, 3, half, groups=self.in_chs),  # local part of the query, no norm
            *_conv_norm(self.in_chs, keys, 1, half),
            *_conv_norm(self.in_chs, keys, 1, r),
            *_conv_norm(self.in_chs, values, 1, r),
            *_conv_norm(values, values, 3, half, groups=values),
            Matmul(HEADS, half**2, DOWNSAMPLE_KEY_DIM, r**2),
            Weights(HEADS * r**2),
            Matmul(HEADS, half**2, r**2, head_values),
            *_conv_norm(values, self.out_chs, 1, half),
        )

    def activations(self) -> tuple[Activation, ...]:
        tokens, half = self.resolution**2, ceil(self.resolution / 2) ** 2
        conv = Activation("conv", self.out_chs * half, ("x",))
        if not self.attention:
            return (conv,)
        keys, values = HEADS * DOWNSAMPLE_KEY_DIM, HEADS * ATTN_RATIO * DOWNSAMPLE_KEY_DIM
        return (
            conv,
            Activation("nearby", self.in_chs * half, ("x",)),
            Activation("subsampled", self.in_chs * half, ("x",)),
            in_place("nearby", "subsampled"),
            Activation("query", keys * half, ("nearby",)),
            Activation("key", keys * tokens, ("x",)),
            Activation("value", values * tokens, ("x",)),
            Activation("local", values * half, ("value",)),
            Activation("weights", HEADS * half * tokens, ("query", "key")),
            Activation("mixed", values * half, ("weights", "value")),
            in_place("mixed", "local"),
            Activation("out", self.out_chs * half, ("mixed",)),
            in_place("out", "conv"),
        )

    def build(self) -> nn.Module:
        from search_spaces.efficientformerv2 import modules

        return modules.downsample(self.in_chs, self.out_chs, self.resolution, self.attention)


@dataclass(frozen=True)
class Head(HeadSpec):
    """Norm, average pool and two linear classifiers whose logits are averaged (the second is for distillation)."""

    two_classifiers = True

    def ops(self) -> tuple[Op, ...]:
        classifier = Linear(self.width, self.num_classes)
        return Weights(2 * self.width), classifier, classifier

    def activations(self) -> tuple[Activation, ...]:
        return (
            Activation("pooled", self.width, ("x",)),
            Activation("logits", self.num_classes, ("pooled",)),
            Activation("distilled", self.num_classes, ("pooled",)),
            in_place("logits", "distilled"),
        )

    def build(self) -> nn.Module:
        from search_spaces.efficientformerv2 import modules

        return modules.Head(self.width, self.num_classes)
