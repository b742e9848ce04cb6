"""Parameters and multiply-accumulates of a block, from its operators alone: no model is built.

One small class per operator, each counting as fvcore's jit handles do (conv, linear, matmul). What folds into a
convolution or moves no weights against activations (normalization, activation, resampling, element-wise) counts
no MACs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Op(Protocol):
    @property
    def num_params(self) -> int: ...

    @property
    def macs(self) -> int: ...


@dataclass(frozen=True)
class Conv:
    """A 2-D convolution with bias and square kernel; `out_size` is the height and width of its output."""

    in_chs: int
    out_chs: int
    kernel: int
    out_size: int
    groups: int = 1

    @property
    def _weights(self) -> int:
        return self.in_chs // self.groups * self.out_chs * self.kernel**2

    @property
    def num_params(self) -> int:
        return self._weights + self.out_chs

    @property
    def macs(self) -> int:
        return self._weights * self.out_size**2


@dataclass(frozen=True)
class Linear:
    in_features: int
    out_features: int

    @property
    def num_params(self) -> int:
        return (self.in_features + 1) * self.out_features

    @property
    def macs(self) -> int:
        return self.in_features * self.out_features


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


def count_params(ops: Iterable[Op]) -> int:
    return sum(op.num_params for op in ops)


def count_macs(ops: Iterable[Op]) -> int:
    return sum(op.macs for op in ops)
