"""A structure as JSON: how the axes of a network's tensors are made of dimensions, as text."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import nn

from search_spaces.layout import Axis, Factor, fixed, product
from search_spaces.structure.base import Builder, Structure


@dataclass(frozen=True)
class Layouts:
    """A structure as JSON.

    Args:
        sizes: of the dimensions by name.
        axes: of the tensors that have them, as ("stem.width + 3", "head.width*49"); all others stay whole.
        attributes: channels and groups that modules keep as numbers, some of them to fuse their branches.
        other_macs: of an image, of what no layer's weight tells: matrix products of attention.
    """

    sizes: dict[str, int]
    axes: dict[str, tuple[str, ...]]
    attributes: dict[str, str]
    other_macs: int = 0

    def structure(self, model: nn.Module) -> Structure:
        """Of the whole model. AssertionError, AttributeError or KeyError if it is of another."""
        builder = Builder(model)
        for name, size in self.sizes.items():
            builder.dimension(name, "width", size)
        for name, _ in model.named_parameters():
            builder.tensor(name)
        for name, axes in self.axes.items():
            builder.tensor(name, *(to_axis(text) for text in axes))
        for name, text in self.attributes.items():
            (factors,), (module, _, attribute) = to_axis(text), name.rpartition(".")
            found = getattr(model.get_submodule(module), attribute)
            assert found == product(factors, self.sizes), f"{name} is {found}, not {text}"
            builder.attribute(module, attribute, *factors)
        if self.other_macs:
            builder.matmul("", count=lambda _: self.other_macs)
        return builder.build()

    def only(self, names: Collection[str]) -> Layouts:
        """Without the other dimensions: their lengths are fixed."""

        def known(text: str) -> str:
            return to_text(tuple(fixed(segment, self.sizes, names) for segment in to_axis(text)))

        return replace(
            self,
            sizes={name: size for name, size in self.sizes.items() if name in names},
            axes={name: tuple(map(known, texts)) for name, texts in self.axes.items()},
            attributes={name: known(text) for name, text in self.attributes.items()},
        )

    def with_other_macs(self, macs: int) -> Layouts:
        return replace(self, other_macs=macs)


def to_text(layout: Axis) -> str:
    return " + ".join("*".join(map(str, segment)) for segment in layout)


def to_axis(text: str) -> Axis:
    def factor(word: str) -> Factor:
        return int(word) if word.isdecimal() else word

    return tuple(tuple(map(factor, segment.split("*"))) for segment in text.split(" + "))
