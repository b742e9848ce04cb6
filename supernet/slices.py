"""Where a block's tensor lies in the store's tensor of the same name.

Of every size that an axis is made of (`search_spaces.layout`) it has the first units; of the height and width of a
convolution's kernel, which no layout names, the middle, as in Once-for-All (Cai et al., ICLR 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_spaces.layout import Axis, Layout, axis, length, places


@dataclass(frozen=True)
class Extent:
    """A tensor's axes and their sizes. Axes that no layout names are a size of their own, `0`, `1`, … by position."""

    axes: tuple[Axis, ...]
    sizes: dict[str, int]

    @classmethod
    def of(cls, name: str, shape: Sequence[int], layout: Layout) -> Extent:
        """AssertionError if the layout says another shape than the tensor has."""
        named = layout.axes.get(name, ())
        plain = {str(i): shape[i] for i in range(len(named), len(shape))}
        extent = cls((*named, *map(axis, plain)), {**layout.sizes, **plain})
        assert extent.shape == tuple(shape), f"{name} has shape {tuple(shape)}, its layout says {tuple(extent.shape)}"
        return extent

    @property
    def shape(self) -> torch.Size:
        return torch.Size(length(one, self.sizes) for one in self.axes)

    def joined(self, other: Extent) -> Extent:
        """The least extent that holds both."""
        assert self.axes == other.axes, (self.axes, other.axes)
        return Extent(self.axes, {name: max(size, other.sizes[name]) for name, size in self.sizes.items()})

    def within(self, store: Extent, device: torch.device) -> Part:
        """Where it lies in a tensor of the store's extent.

        Raises:
            ValueError: it is larger than that, or of other axes.
        """
        larger = {n: (size, store.sizes.get(n, 0)) for n, size in self.sizes.items() if size > store.sizes.get(n, 0)}
        if self.axes != store.axes or larger:
            raise ValueError(f"a tensor of shape {tuple(self.shape)} is no part of the store's {tuple(store.shape)}")
        return Part(store.shape, [self._places(i, store) for i in range(len(self.axes))], device)

    def _places(self, i: int, store: Extent) -> np.ndarray:
        name = str(i)
        if len(self.axes) == 4 and i >= 2 and self.axes[i] == axis(name):  # a kernel's height or width
            start = (store.sizes[name] - self.sizes[name]) // 2
            return np.arange(start, start + self.sizes[name])
        first = {name: np.arange(size) for name, size in self.sizes.items()}
        return places(self.axes[i], store.sizes, first)


class Part:
    """Some entries of a tensor along each of its axes: a run of them, runs at equal distances, or listed ones.

    Args:
        full: the whole tensor's shape.
        indices: along each axis, ascending.
    """

    def __init__(self, full: torch.Size, indices: Sequence[np.ndarray], device: torch.device) -> None:
        self.shape = torch.Size(map(len, indices))
        self._starts: list[int] = []  # along each axis
        self._box: list[int] = []  # sizes of the view
        self._axes: list[tuple[int, int]] = []  # of each of the view's dimensions: the axis, and how far entries are
        self._listed: list[tuple[int, Tensor]] = []  # dimensions of the view, and which of their entries
        self._strided: dict[tuple[int, ...], tuple[list[int], int]] = {}  # strides and start of the view, by strides
        for axis_number, (index, whole) in enumerate(zip(indices, full, strict=True)):
            if (runs := _runs(index)) is None:
                self._listed.append((len(self._box), torch.from_numpy(index).to(device)))
                runs = (0, ((whole, 1),))
            start, dimensions = runs
            self._starts.append(start)
            for size, step in dimensions:
                self._box.append(size)
                self._axes.append((axis_number, step))
        self.is_view = not self._listed and len(self._box) == len(full)

    def of(self, tensor: Tensor) -> Tensor:
        """Its entries: a view of the tensor if `is_view`, else a copy."""
        return self._view(tensor) if self.is_view else self.copy_of(tensor)

    def copy_of(self, tensor: Tensor) -> Tensor:
        """Its entries, dense, in the tensor's order in memory."""
        part = self._view(tensor)
        if self.is_view:
            return part.clone()
        for dimension, index in self._listed:
            part = part.index_select(dimension, index)
        return (part if self._listed else part.clone()).reshape(self.shape)

    def write(self, tensor: Tensor, values: Tensor) -> None:
        """Puts these entries into the tensor, in place."""
        inside = self.padded(torch.ones_like(values, dtype=torch.bool), tensor.shape, tensor.stride())
        tensor.copy_(torch.where(inside, self.padded(values, tensor.shape, tensor.stride()), tensor))

    def padded(self, values: Tensor, full: torch.Size, stride: Sequence[int]) -> Tensor:
        """A tensor of that shape and those strides with these entries, and 0 elsewhere."""
        if not self.is_view:
            values = self._spread(values)
        whole = values.new_empty_strided(full, stride).zero_()
        self._view(whole).copy_(values)
        return whole

    def _spread(self, values: Tensor) -> Tensor:
        """Entries of its shape, as the view has them: runs apart, and 0 where none is listed."""
        shape = list(self._box)
        for dimension, index in self._listed:
            shape[dimension] = len(index)
        values = values.reshape(shape)
        for dimension, index in self._listed:
            shape[dimension] = self._box[dimension]
            values = values.new_zeros(shape).index_copy_(dimension, index, values)
        return values

    def _view(self, tensor: Tensor) -> Tensor:
        """The tensor's entries, axes of several runs as two."""
        stride = tensor.stride()
        if stride not in self._strided:  # at every call it would take as long as copying a small tensor
            start = sum(start * step for start, step in zip(self._starts, stride, strict=True))
            self._strided[stride] = [stride[i] * step for i, step in self._axes], start
        strides, start = self._strided[stride]
        return tensor.as_strided(self._box, strides, tensor.storage_offset() + start)


def _runs(index: np.ndarray) -> tuple[int, tuple[tuple[int, int], ...]] | None:
    """Where ascending indices begin, and (how many, how far apart) of their runs and of entries in a run.

    A single run is without the former. None if runs are not alike.
    """
    if not len(index):
        return 0, ((0, 1),)
    start, length = int(index[0]), len(index)
    breaks = np.flatnonzero(np.diff(index) != 1) + 1
    if not len(breaks):
        return start, ((length, 1),)
    run = int(breaks[0])
    number, distance = length // run, int(index[run]) - start
    alike = (start + distance * np.arange(number)[:, None] + np.arange(run)).reshape(-1)
    return (start, ((number, distance), (run, 1))) if np.array_equal(index, alike) else None


class Slices(torch.autograd.Function):
    """Contiguous copies of parts of tensors, all of a network's as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, parts: Sequence[Part], *full: Tensor) -> tuple[Tensor, ...]:
        ctx.parts = parts
        ctx.full = [(tensor.shape, tensor.stride()) for tensor in full]
        return tuple([part.copy_of(tensor) for tensor, part in zip(full, parts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows = zip(grads, ctx.parts, ctx.full, strict=True)
        return None, *[part.padded(grad, full, stride) for grad, part, (full, stride) in rows]
