"""A block of a network: all that is known of it without building it, and a place that it can have in a network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import TYPE_CHECKING, ClassVar

from search_spaces.cost import Activation, Linear, Op, count_macs, count_params, count_peak_activations, in_place
from search_spaces.layout import Layout

if TYPE_CHECKING:
    from torch import nn

RECTIFIED_MEAN = 1 / math.sqrt(math.pi - 1)  # of a normal variable, rectified, over its own standard deviation


@dataclass(frozen=True)
class BlockSpec(ABC):
    """A block's complete geometry: enough to count it, build it, name it in a table and find its weights.

    `name` is the dotted prefix of the block's weights in the store. All other fields are geometry. Those that are
    neither `training_only` nor `untimed` make up `key`, under which a latency table files the block: blocks that take
    the same time as they are deployed share a row. What is counted (`ops`, `activations`) is the deployed form, what is
    built the trained one.

    A block may hand on a second tensor beside its output, (output, other), for a later one that takes both; blocks
    between them pass it by. All take their input alone as well. Shapes are of inputs and outputs, without the other.
    """

    training_only: ClassVar[frozenset[str]] = frozenset()
    untimed: ClassVar[frozenset[str]] = frozenset()  # fields that say what is in memory, or handed on, meanwhile

    name: str

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the block is, one word for its whole family of shapes."""

    @property
    @abstractmethod
    def variant(self) -> str:
        """The elastic part of the geometry; the supernet keeps one set of normalization entries for each."""

    @property
    @abstractmethod
    def chainable(self) -> bool:
        """True if the output has the input's shape, so that copies of the block can follow one another."""

    @property
    def residual(self) -> bool:
        """True if the input is added to what the block makes of it, so that training may drop the latter at random.

        The module of such a block has a `drop_prob` to set, or the difference between output and input is dropped.
        """
        return self.chainable

    @property
    def two_classifiers(self) -> bool:
        """True of a head with one classifier for the labels and one for a teacher.

        The module of such a block, or a part of it, has a `distilled_training` to set, as timm's networks: while it
        trains with that, it returns (logits of the first, logits of the second), and otherwise their mean.
        """
        return False

    @property
    def keeps_input(self) -> bool:
        """True if its input stays in memory for a later block."""
        return False

    @property
    def elements_held(self) -> int:
        """Of another tensor that stays in memory while the block runs, handed on from an earlier one to a later one."""
        return 0

    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of the input, or (tokens, channels) of a sequence."""

    @abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of the output, (tokens, channels) of a sequence, or (classes,) for a head."""

    @abstractmethod
    def ops(self) -> tuple[Op, ...]:
        """The deployed form's operators with weights or multiply-accumulates, from which `cost` counts."""

    @abstractmethod
    def activations(self) -> tuple[Activation, ...]:
        """What its operators hold in memory, in the order of execution; `cost` says what counts."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The block as it is trained: a module whose parameter names, after `name`, are those of the full network."""

    def norm_start(self, norm: str) -> tuple[float, float]:
        """(weight, bias) that its norm of that name begins with, in `build()` too: weight 0 for a branch that begins
        silent."""
        return 1.0, 0.0

    def layout(self) -> Layout:
        """The axes of its tensors, by their names in `build()`, that are more than one size each.

        Of all other axes, of which nothing need be said, a smaller block has the first entries of a larger one; of the
        height and width of a kernel, the middle ones.
        """
        return Layout()

    @property
    def num_channels(self) -> int:
        """Of the output; of the input where the output is of classes."""
        shape = self.output_shape() if len(self.output_shape()) > 1 else self.input_shape()
        return shape[0] if len(shape) == 3 else shape[-1]

    @property
    def detail(self) -> str:
        """What the shapes do not show, for a reader."""
        return ""

    @property
    def key(self) -> str:
        return f"{self.kind}({','.join([f'{name}={getattr(self, name)}' for name in _timed_fields(type(self))])})"

    @cached_property
    def num_params(self) -> int:
        return count_params(self.ops())

    @cached_property
    def macs(self) -> int:
        return count_macs(self.ops())

    @cached_property
    def peak_activations(self) -> int:
        """Most activations of one image that are in memory at once."""
        activations = self.activations()
        if self.keeps_input:
            activations = (*activations, in_place("x"))
        return self.elements_held + count_peak_activations(math.prod(self.input_shape()), activations)


@cache
def _timed_fields(block: type[BlockSpec]) -> tuple[str, ...]:
    left_out = {"name"} | block.training_only | block.untimed
    return tuple(field.name for field in fields(block) if field.name not in left_out)


@dataclass(frozen=True)
class HeadSpec(BlockSpec):
    """The last block of a classifier: (`width`, `resolution`, `resolution`) to (`num_classes`,) logits.

    Here average pool and a linear classifier.
    """

    width: int
    num_classes: int
    resolution: int

    kind = "head"
    chainable = False

    @property
    def variant(self) -> str:
        return f"w{self.width}"

    def input_shape(self) -> tuple[int, int, int]:
        return self.width, self.resolution, self.resolution

    def output_shape(self) -> tuple[int]:
        return (self.num_classes,)

    def ops(self) -> tuple[Op, ...]:
        return (Linear(self.width, self.num_classes),)

    def activations(self) -> tuple[Activation, ...]:
        return Activation("pooled", self.width, ("x",)), Activation("logits", self.num_classes, ("pooled",))

    def build(self) -> nn.Module:
        from timm.layers import ClassifierHead

        return ClassifierHead(self.width, self.num_classes)


@dataclass(frozen=True)
class Slot:
    """A place in the network: the block there as a function of the choices it depends on, None if there is none."""

    choices: tuple[int, ...]
    block: Callable[..., BlockSpec | None]
