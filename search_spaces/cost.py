"""Parameters, multiply-accumulates and peak memory of a block, from its operators alone: no model is built.

One small class per operator, each counting as fvcore's jit handles do (conv, linear, matmul). What folds into a
convolution or moves no weights against activations (normalization, activation, resampling, element-wise) counts
no MACs.

Memory is that of the activations of one image, at the operator where they are most: its inputs, its output, and what
later operators need, as a residual branch does its input (Lin et al., MCUNet, 2020, and MCUNetV2, 2021, count like
this). Operators run in the order of the module, and element-wise ones (normalization, activation, addition, softmax),
and changes of layout, in place. Weights, and what a runtime needs besides, are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Op(Protocol):
    @property
    def num_params(self) -> int: ...

    @property
    def macs(self) -> int: ...


@dataclass(frozen=True)
class Conv:
    """A 2-D convolution with square kernel; `out_size` is the height and width of its output."""

    in_chs: int
    out_chs: int
    kernel: int
    out_size: int
    groups: int = 1
    bias: bool = True

    @property
    def _weights(self) -> int:
        return self.in_chs // self.groups * self.out_chs * self.kernel**2

    @property
    def num_params(self) -> int:
        return self._weights + self.out_chs * self.bias

    @property
    def macs(self) -> int:
        return self._weights * self.out_size**2


@dataclass(frozen=True)
class Linear:
    """A linear layer with bias, applied to each of `vectors`, as the tokens of a transformer."""

    in_features: int
    out_features: int
    vectors: int = 1

    @property
    def num_params(self) -> int:
        return (self.in_features + 1) * self.out_features

    @property
    def macs(self) -> int:
        return self.in_features * self.out_features * self.vectors


@dataclass(frozen=True)
class Matmul:
    """`batch` products of an (rows, inner) and an (inner, columns) matrix."""

    batch: int
    rows: int
    inner: int
    columns: int
    num_params: int = 0

    @property
    def macs(self) -> int:
        return self.batch * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Weights:
    """Parameters without multiply-accumulates: batch normalization (2 a channel), layer scale, biases."""

    num_params: int
    macs: int = 0


@dataclass(frozen=True)
class Activation:
    """What an operator makes of other activations of its block, whose input is named `x`.

    Args:
        name: under which others take it; none for what works in place.
        elements: of the output for one image; 0 for what works in place.
        sources: names of the inputs.
    """

    name: str
    elements: int
    sources: tuple[str, ...]


def conv_norm(
    in_chs: int, out_chs: int, kernel: int, out_size: int, groups: int = 1, *, bias: bool = False
) -> tuple[Op, Op]:
    """A convolution and the batch normalization of its output."""
    return Conv(in_chs, out_chs, kernel, out_size, groups, bias), Weights(2 * out_chs)


def in_place(*sources: str) -> Activation:
    """An element-wise operator on several activations, whose output is under the first one's name from then on."""
    return Activation("", 0, sources)


def count_params(ops: Iterable[Op]) -> int:
    return sum(op.num_params for op in ops)


def count_macs(ops: Iterable[Op]) -> int:
    return sum(op.macs for op in ops)


def count_peak_activations(input_elements: int, activations: Sequence[Activation]) -> int:
    """Most elements that are held at once while operators make these, in this order, of the block's input.

    Each is held until its last use; the input, which the network has no other use for, too.
    """
    elements = {"x": input_elements, **{a.name: a.elements for a in activations}}
    last_use = {name: i for i, activation in enumerate(activations) for name in activation.sources}
    made = {"x": -1, **{a.name: i for i, a in enumerate(activations)}}
    held = (
        activation.elements + sum(elements[name] for name, last in last_use.items() if made[name] < i <= last)
        for i, activation in enumerate(activations)
    )
    return max(held)
