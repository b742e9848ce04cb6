"""A block of timm's network: a template that equal blocks share, and the sizes that it is cut to."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.block import BlockSpec
from search_spaces.cost import Activation, Op, Weights
from search_spaces.deployed import deployed
from search_spaces.layout import Layout

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.structure.base import Structure
    from search_spaces.structure.costs import Costs


@dataclass(frozen=True)
class Boundary:
    """The shape of one image's tensor between two blocks, whose channels follow from sizes.

    Args:
        shape: of the whole network, without the batch.
        axis: that has the channels; None where no size changes them.
        terms: (dimension, channels of each of its units).
    """

    shape: tuple[int, ...]
    axis: int | None = None
    terms: tuple[tuple[str, int], ...] = ()

    def at(self, whole: Mapping[str, int], sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of a network of these sizes."""
        if self.axis is None:
            return self.shape
        less = sum(each * (whole[name] - sizes[name]) for name, each in self.terms)
        return tuple(n - less if i == self.axis else n for i, n in enumerate(self.shape))


@dataclass(frozen=True)
class Template:
    """A block of the whole network; those with equal digests are copies of each other but for their weights.

    Args:
        kind: its class, for a reader.
        dimensions: their names, in the order in which a block lists its sizes.
        other_macs: of one image, that neither layers nor the structure tell of, the same at all sizes.
        residual: its output has the input's channels, so the network runs without it.
        fuses: deployment merges some of its layers.
    """

    kind: str
    digest: str
    module: nn.Module = field(repr=False, compare=False)
    structure: Structure = field(repr=False, compare=False)
    before: Boundary = field(compare=False)
    after: Boundary = field(compare=False)
    other_macs: int = field(compare=False)
    residual: bool = field(compare=False)
    fuses: bool = field(compare=False)

    @cached_property
    def whole(self) -> dict[str, int]:
        return self.structure.sizes

    @cached_property
    def two_classifiers(self) -> bool:
        return any(hasattr(part, "distilled_training") for part in self.module.modules())

    def __deepcopy__(self, _: Any) -> Template:
        return self

    def build(self, sizes: Mapping[str, int]) -> nn.Module:
        """The block cut to these sizes, with the template's weights."""
        import torch

        from search_spaces.structure.slicing import prune

        device = torch.get_default_device()
        module = copy.deepcopy(self._on_meta if device.type == "meta" else self.module)
        prune(module, self.structure, {n: np.arange(size) for n, size in sizes.items() if size < self.whole[n]})
        return module.to(device)

    @cached_property
    def _on_meta(self) -> nn.Module:
        return copy.deepcopy(self.module).to("meta")

    @cache  # noqa: B019  as many as there are rows of the table
    def costs(self, sizes: tuple[int, ...]) -> tuple[int, int]:
        """(parameters, MACs of one image) as deployed."""
        import torch

        from search_spaces.structure.costs import deployed_costs

        named = dict(zip(self.whole, sizes, strict=True))
        if not self.fuses:
            return self._costs.num_params(named), self._costs.macs(named) + self.other_macs
        products = self._costs.product_macs(named) + self.other_macs
        return deployed_costs(self.build(named), torch.zeros(1, *self.before.at(self.whole, named)), products)

    @cached_property
    def _costs(self) -> Costs:
        import torch

        from search_spaces.structure.costs import Costs

        return Costs(self.module, self.structure, torch.zeros(1, *self.before.shape))

    @cache  # noqa: B019
    def activations(self, sizes: tuple[int, ...]) -> tuple[Activation, ...]:
        """What its operators hold in memory as deployed, found by running it."""
        from search_spaces.structure.memory import record

        named = dict(zip(self.whole, sizes, strict=True))
        return record(deployed(self.build(named)), self.before.at(self.whole, named))


@dataclass(frozen=True)
class TimmBlock(BlockSpec):
    """
    Args:
        sizes: of the template's dimensions, in their order.
    """

    template: Template
    sizes: tuple[int, ...]

    @property
    def kind(self) -> str:
        return self.template.kind

    @property
    def variant(self) -> str:
        return "x".join(map(str, self.sizes)) or "whole"

    @property
    def chainable(self) -> bool:
        return self.input_shape() == self.output_shape()

    @property
    def residual(self) -> bool:
        return self.template.residual

    @property
    def two_classifiers(self) -> bool:
        return self.template.two_classifiers

    @property
    def _named(self) -> dict[str, int]:
        return dict(zip(self.template.whole, self.sizes, strict=True))

    def input_shape(self) -> tuple[int, ...]:
        return self.template.before.at(self.template.whole, self._named)

    def output_shape(self) -> tuple[int, ...]:
        return self.template.after.at(self.template.whole, self._named)

    def ops(self) -> tuple[Op, ...]:
        return (Weights(*self.template.costs(self.sizes)),)

    def activations(self) -> tuple[Activation, ...]:
        return self.template.activations(self.sizes)

    def build(self) -> nn.Module:
        return self.template.build(self._named)

    def norm_start(self, norm: str) -> tuple[float, float]:
        """As timm has it: weight 0 for the last norm of some residual branches."""
        weight = getattr(self.template.module.get_submodule(norm), "weight", None)
        return 1.0 if weight is None else float(weight.detach()[0]), 0.0

    def layout(self) -> Layout:
        return Layout(self._named, self.template.structure.axes)

    @property
    def detail(self) -> str:
        return self.variant if self.sizes else ""

    @property
    def key(self) -> str:
        shapes = ("x".join(map(str, shape)) for shape in (self.input_shape(), self.output_shape()))
        return f"{self.kind}({','.join((*shapes, self.variant, self.template.digest))})"


def digest_of(module: nn.Module, boundaries: Sequence[Boundary], axes: Mapping[str, Any]) -> str:
    """Of everything that a block computes with, but its weights."""
    text = [str(boundaries), str(sorted(axes.items())), str(getattr(module, "code", ""))]
    for name, part in module.named_modules():
        text.append(f"{name} {type(part).__qualname__} {part.extra_repr()} {sorted(_numbers(part))}")
        text += [f"{leaf} {tuple(tensor.shape)}" for leaf, tensor in part.named_parameters(recurse=False)]
        text += [f"{leaf} {tuple(tensor.shape)}" for leaf, tensor in part.named_buffers(recurse=False)]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:10]


def _numbers(module: nn.Module) -> Iterator[tuple[str, str]]:
    """What it keeps beside tensors and modules, as a window's shift."""
    for name, value in vars(module).items():
        if not name.startswith("_") and name != "training" and isinstance(value, int | float | str | tuple | None):
            yield name, repr(value)
