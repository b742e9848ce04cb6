"""What of a model can be pruned: its dimensions by name, and how the axes of its tensors are made of them.

A *dimension* is a number of interchangeable units: the channels of the residual stream, the heads of an attention, the
hidden features of an FFN. Axes are products of dimensions (`search_spaces.layout`). All else follows from them: which
numbers belong to a unit (importance), where they lie (slicing), and what a network of other sizes costs (parameters,
MACs). A family of models is one function that writes them down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from search_spaces.layout import Axis, Factor, Sizes, axis, fixed, length

Kind = Literal["embedding", "heads", "key", "value", "ffn", "width"]


@dataclass(frozen=True)
class Dimension:
    """
    Args:
        kind: "key" is that of queries and keys; "width" the channels between two convolutions.
        minimum: units that must remain.
    """

    name: str
    kind: Kind
    size: int
    minimum: int = 1


@dataclass(frozen=True)
class MatMul:
    """A product of two activations, which no weight tells of: MACs of an image = count(input shape) · Π factors.

    Args:
        module: whose forward does it.
        count: of the shape of the module's input for one image: (1, channels, height, width), (windows, tokens, …), ….
    """

    module: str
    factors: tuple[Factor, ...]
    count: Callable[[torch.Size], int]


@dataclass(frozen=True)
class Attribute:
    """`model.<module>.<name>` is the product of the factors, as in `head_dim` or `num_heads`."""

    module: str
    name: str
    factors: tuple[Factor, ...]


@dataclass(frozen=True)
class Structure:
    """
    Args:
        axes: of all parameters and some buffers, the first axes of each; all further axes stay whole.
        attributes: beside those of convolutions, linear layers and norms, which follow from their tensors.
        merged: parameters that deployment merges into others: they cost nothing.
    """

    dimensions: tuple[Dimension, ...]
    axes: Mapping[str, tuple[Axis, ...]]
    matmuls: tuple[MatMul, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    merged: frozenset[str] = frozenset()

    @property
    def sizes(self) -> dict[str, int]:
        return {dimension.name: dimension.size for dimension in self.dimensions}

    def resized(self, sizes: Sizes) -> Structure:
        """The structure of the model pruned to these sizes; dimensions not named keep theirs."""
        dimensions = tuple(replace(d, size=sizes.get(d.name, d.size)) for d in self.dimensions)
        return replace(self, dimensions=dimensions)

    def only(self, names: Collection[str]) -> Structure:
        """Without the other dimensions: their lengths are fixed."""

        def known(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
            return fixed(factors, self.sizes, names)

        return replace(
            self,
            dimensions=tuple(dimension for dimension in self.dimensions if dimension.name in names),
            axes={n: tuple(tuple(map(known, layout)) for layout in axes) for n, axes in self.axes.items()},
            matmuls=tuple(replace(matmul, factors=known(matmul.factors)) for matmul in self.matmuls),
            attributes=tuple(replace(attribute, factors=known(attribute.factors)) for attribute in self.attributes),
        )

    def trained(self) -> Structure:
        """With the costs of the form that is trained, before deployment merges anything."""
        return replace(self, merged=frozenset())

    def with_other_macs(self, macs: int) -> Structure:
        """With MACs of an image that are the same at all sizes."""
        return replace(self, matmuls=(*self.matmuls, MatMul("", (), lambda _: macs)))


class Builder:
    """Collects the structure of a model while a family walks through it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._tensors = model.state_dict()
        self._dimensions: dict[str, Dimension] = {}
        self._axes: dict[str, tuple[Axis, ...]] = {}
        self._matmuls: list[MatMul] = []
        self._attributes: list[Attribute] = []
        self._merged: set[str] = set()

    def dimension(self, name: str, kind: Kind, size: int) -> str:
        """Adds a dimension and returns its name."""
        assert name not in self._dimensions, name
        self._dimensions[name] = Dimension(name, kind, size)
        return name

    def tensor(self, name: str, *axes: Axis) -> None:
        self._axes[name] = axes

    def layer(self, name: str, out: Axis, into: Axis | None = None) -> None:
        """A convolution or linear layer from `into` to `out`, or what acts on each channel of `out` alone: norms,
        layer scales, depthwise convolutions. Of a layer without tensors, nothing."""
        leaves = {"weight": (out,) if into is None else (out, into)}
        leaves |= dict.fromkeys(("bias", "gamma", "running_mean", "running_var"), (out,))
        for leaf, axes in leaves.items():
            if f"{name}.{leaf}" in self._tensors:
                self.tensor(f"{name}.{leaf}", *axes)

    def conv_norm(self, name: str, out: Axis, into: Axis | None = None) -> None:
        """A pair `conv` and `bn`; depthwise without `into`."""
        self.layer(f"{name}.conv", out, into)
        self.layer(f"{name}.bn", out)

    def squeeze_excite(self, name: str, channels: Axis) -> None:
        """timm's `SqueezeExcite` of these channels; its squeezed width is a dimension."""
        squeezed = axis(self.dimension(f"{name}.squeezed", "width", len(self._tensors[f"{name}.fc1.weight"])))
        self.layer(f"{name}.fc1", squeezed, channels)
        self.layer(f"{name}.fc2", channels, squeezed)

    def matmul(self, module: str, *factors: Factor, count: Callable[[torch.Size], int]) -> None:
        self._matmuls.append(MatMul(module, factors, count))

    def attribute(self, module: str, name: str, *factors: Factor) -> None:
        self._attributes.append(Attribute(module, name, factors))

    def merged(self, *names: str) -> None:
        """Parameters that deployment merges into others; those that the layer does not have are passed over."""
        self._merged |= self._tensors.keys() & set(names)

    def build(self) -> Structure:
        """AssertionError if a parameter has no axes or another shape than they say, or if a dimension has no tensor."""
        structure = Structure(
            tuple(self._dimensions.values()),
            self._axes,
            tuple(self._matmuls),
            tuple(self._attributes),
            frozenset(self._merged),
        )
        others = [name for name, _ in self.model.named_parameters() if name not in self._axes]
        assert not others, f"{others[0]} is not known"
        for name, axes in self._axes.items():
            expected = tuple(length(layout, structure.sizes) for layout in axes)
            found = tuple(self._tensors[name].shape[: len(axes)])
            assert found == expected, f"{name} has shape {found}, its axes say {expected}"
        used = {f for axes in self._axes.values() for layout in axes for segment in layout for f in segment}
        assert not (unused := self._dimensions.keys() - used), f"no tensor has {unused}"
        return structure
