"""A family that the project does not know, in one file, as a package of somebody else would have it.

A stem, up to two residual blocks, a classifier. The filters of all, which blocks are kept, and the ratio of each vary;
no field and no kind of block is called as in the project's own families.
"""

from __future__ import annotations

import inspect
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces import Arch, BlockSpec, Choice, SearchSpace
from search_spaces.block import Slot
from search_spaces.cost import Activation, Conv, Linear, Op, Weights, in_place

FILTERS, RATIOS, BLOCKS = (8, 12, 16), (1, 2), 2


class Residual(nn.Module):
    def __init__(self, filters: int, ratio: int) -> None:
        super().__init__()
        self.drop_prob = 0.0
        wide = filters * ratio
        self.expand, self.norm = nn.Conv2d(filters, wide, 3, padding=1), nn.BatchNorm2d(wide)
        self.project = nn.Conv2d(wide, filters, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.norm(self.expand(x)).relu())
        if self.training and self.drop_prob:
            y = y * y.new_empty(len(y), 1, 1, 1).bernoulli_(1 - self.drop_prob) / (1 - self.drop_prob)
        return x + y


def stem(filters: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, filters, 3, 2, 1), nn.BatchNorm2d(filters), nn.ReLU())


def classifier(filters: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, num_classes))


def network(filters: int, ratios: Mapping[str, int], num_classes: int) -> nn.Sequential:
    blocks = {name: Residual(filters, ratio) for name, ratio in ratios.items()}
    ends = stem(filters), classifier(filters, num_classes)
    return nn.Sequential(OrderedDict[str, nn.Module]({"input": ends[0], **blocks, "output": ends[1]}))


@dataclass(frozen=True)
class Stem(BlockSpec):
    filters: int
    size: int

    kind = "entry"
    chainable = False

    @property
    def variant(self) -> str:
        return f"f{self.filters}"

    def input_shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def output_shape(self) -> tuple[int, int, int]:
        return self.filters, self.size // 2, self.size // 2

    def ops(self) -> tuple[Op, ...]:
        return Conv(3, self.filters, 3, self.size // 2), Weights(2 * self.filters)

    def activations(self) -> tuple[Activation, ...]:
        return (Activation("out", self.filters * (self.size // 2) ** 2, ("x",)),)

    def build(self) -> nn.Module:
        return stem(self.filters)


@dataclass(frozen=True)
class Bottleneck(BlockSpec):
    filters: int
    ratio: int
    size: int

    kind = "bottle_neck"
    chainable = True

    @property
    def variant(self) -> str:
        return f"f{self.filters}r{self.ratio}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.filters, self.size, self.size

    def output_shape(self) -> tuple[int, int, int]:
        return self.input_shape()

    def ops(self) -> tuple[Op, ...]:
        wide = self.filters * self.ratio
        return Conv(self.filters, wide, 3, self.size), Weights(2 * wide), Conv(wide, self.filters, 1, self.size)

    def activations(self) -> tuple[Activation, ...]:
        elements = self.filters * self.size**2
        wide = Activation("wide", self.ratio * elements, ("x",))
        return wide, Activation("out", elements, ("wide",)), in_place("out", "x")

    def build(self) -> nn.Module:
        return Residual(self.filters, self.ratio)


@dataclass(frozen=True)
class Classifier(BlockSpec):
    filters: int
    size: int
    num_classes: int

    kind = "exit"
    chainable = False

    @property
    def variant(self) -> str:
        return f"f{self.filters}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.filters, self.size, self.size

    def output_shape(self) -> tuple[int]:
        return (self.num_classes,)

    def ops(self) -> tuple[Op, ...]:
        return (Linear(self.filters, self.num_classes),)

    def activations(self) -> tuple[Activation, ...]:
        return Activation("pooled", self.filters, ("x",)), Activation("logits", self.num_classes, ("pooled",))

    def build(self) -> nn.Module:
        return classifier(self.filters, self.num_classes)


class ToySpace(SearchSpace):
    name = "toy"

    def __init__(self, image_size: int = 16, num_classes: int = 3) -> None:
        self.image_size, self.num_classes = image_size, num_classes
        kept = (Choice("kept", (i,), (0, 1)) for i in range(BLOCKS))
        ratio = (Choice("ratio", (i,), RATIOS) for i in range(BLOCKS))
        self.choices = (Choice("filters", (0,), FILTERS), *kept, *ratio)
        self.slots = (
            Slot((0,), lambda f: Stem("input", f, image_size)),
            *(Slot((0, 1 + i, 1 + BLOCKS + i), self._bottleneck(f"block{i}")) for i in range(BLOCKS)),
            Slot((0,), lambda f: Classifier("output", f, image_size // 2, num_classes)),
        )

    def _bottleneck(self, name: str) -> Callable[[int, int, int], Bottleneck | None]:
        return lambda f, kept, ratio: Bottleneck(name, f, ratio, self.image_size // 2) if kept else None

    def canonical(self, values: Sequence[int]) -> tuple[int, ...]:
        filters, *rest = values
        kept, ratios = rest[:BLOCKS], rest[BLOCKS:]
        return filters, *kept, *(r if k else RATIOS[0] for k, r in zip(kept, ratios, strict=True))

    def sample(self, rng: random.Random) -> Arch:
        return Arch(self.name, self.canonical([rng.choice(choice.options) for choice in self.choices]))

    def size(self) -> int:
        return int(len(FILTERS) * (1 + len(RATIOS)) ** BLOCKS)

    @property
    def published(self) -> Mapping[str, Arch]:
        return {}

    def _arguments(self, arch: Arch) -> tuple[int, dict[str, int], int]:
        ratios = {block.name: block.ratio for block in self.lower(arch) if isinstance(block, Bottleneck)}
        return arch.values[0], ratios, self.num_classes

    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        model = network(*self._arguments(arch))
        for module in model.modules():
            if isinstance(module, Residual):
                module.drop_prob = drop_path_rate
        return model

    def source(self, arch: Arch) -> str:
        imports = (
            "from collections import OrderedDict\nfrom collections.abc import Mapping\n\nfrom torch import Tensor, nn\n"
        )
        parts = "\n\n".join(inspect.getsource(part) for part in (Residual, stem, classifier, network))
        return (
            f"{imports}\n\n{parts}\n\ndef create_model() -> nn.Module:\n    return network(*{self._arguments(arch)})\n"
        )

    def module_names(self, arch: Arch) -> dict[str, str]:
        return {block.name: block.name for block in self.lower(arch)}
