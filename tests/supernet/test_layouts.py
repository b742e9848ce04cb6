"""A space whose tensors are no plain prefixes: fused q, k, v, a concatenation, kernels of several sizes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Arch, BlockSpec, Choice, SearchSpace
from search_spaces.block import Slot
from search_spaces.cost import Activation, Op, Weights
from search_spaces.layout import Layout, axis
from tests.contracts.supernet import SupernetContract

SIZE, KEY = 8, 4


class Mixer(nn.Module):
    """Attention over the pixels of `heads` heads with fused q, k, v; its output and the input, one behind the other,
    go through a convolution, and that through a depthwise one."""

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.heads, self.drop_prob = heads, 0.0
        self.qkv = nn.Linear(width, 3 * heads * KEY)
        self.project = nn.Linear(heads * KEY, width)
        self.fuse = nn.Conv2d(2 * width, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.spread = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        batch = len(x)
        q, k, v = self.qkv(x.flatten(2).mT).view(batch, -1, 3, self.heads, KEY).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = torch.cat((x, self.project(mixed).mT.reshape(x.shape)), dim=1)
        y = self.spread(self.norm(self.fuse(y)))
        if self.training and self.drop_prob:
            y = y * y.new_empty(batch, 1, 1, 1).bernoulli_(1 - self.drop_prob) / (1 - self.drop_prob)
        return x + y


@dataclass(frozen=True)
class Block(BlockSpec):
    """One of the three parts of the network; its costs are not what is tested."""

    part: str
    width: int
    heads: int = 0
    kernel: int = 0

    @property
    def kind(self) -> str:
        return self.part

    @property
    def chainable(self) -> bool:
        return self.kind == "mixer"

    @property
    def variant(self) -> str:
        return f"w{self.width}"

    def input_shape(self) -> tuple[int, int, int]:
        return 3 if self.kind == "stem" else self.width, SIZE, SIZE

    def output_shape(self) -> tuple[int, ...]:
        return (5,) if self.kind == "head" else (self.width, SIZE, SIZE)

    def ops(self) -> tuple[Op, ...]:
        return (Weights(1000 * self.width + 10 * self.heads + self.kernel),)

    def activations(self) -> tuple[Activation, ...]:
        return (Activation("out", prod(self.output_shape()), ("x",)),)

    def layout(self) -> Layout:
        rows, into = axis((3, "heads", KEY)), axis("width")
        axes = {
            "qkv.weight": (rows, into),
            "qkv.bias": (rows,),
            "project.weight": (into, axis(("heads", KEY))),
            "fuse.weight": (into, axis("width", "width")),
        }
        return Layout({"heads": self.heads, "width": self.width}, axes) if self.kind == "mixer" else Layout()

    def build(self) -> nn.Module:
        if self.kind == "stem":
            return nn.Sequential(nn.Conv2d(3, self.width, 1), nn.ReLU())
        if self.kind == "head":
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.width, 5))
        return Mixer(self.width, self.heads, self.kernel)


class Space(SearchSpace):
    name, image_size, num_classes = "layouts", SIZE, 5
    choices = (Choice("width", (0,), (6, 8)), Choice("heads", (0,), (1, 2, 3)), Choice("kernel", (0,), (3, 5, 7)))
    slots = (
        Slot((0,), lambda w: Block("stem", "stem", w)),
        # in the widest network fewer heads than in others: the store is larger than the largest network
        Slot((0, 1, 2), lambda w, h, k: Block("mixer", "mixer", w, h if w == 6 else min(h, 2), k)),
        Slot((0,), lambda w: Block("head", "head", w)),
    )

    def canonical(self, values: Sequence[int]) -> tuple[int, ...]:
        width, heads, kernel = values
        return width, heads if width == 6 else min(heads, 2), kernel

    def sample(self, rng: random.Random) -> Arch:
        return Arch(self.name, self.canonical([rng.choice(choice.options) for choice in self.choices]))

    def size(self) -> int:
        return (3 + 2) * 3

    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        blocks = {block.name: block.build() for block in self.lower(arch)}
        network = nn.Sequential()
        for name, module in blocks.items():
            network.add_module(name, module)
        return network

    def source(self, arch: Arch) -> str:
        raise NotImplementedError

    def module_names(self, arch: Arch) -> dict[str, str]:
        return {block.name: block.name for block in self.lower(arch)}

    @property
    def published(self) -> Mapping[str, Arch]:
        return {}

    @property
    def smallest(self) -> Arch:
        return Arch(self.name, (6, 1, 3))


class TestLayouts(SupernetContract):
    @classmethod
    def make_tiny(cls) -> Any:
        return Space()
