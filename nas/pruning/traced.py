"""Structures of networks of no known family, from Torch-Pruning's dependency graph.

Its graph (Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023) tells which outputs and inputs of layers
can only go together. Channels that are connected are a unit, and units that lie side by side everywhere are a
dimension; from there on all is as for the known families. What the graph gets wrong is found by running the network
(`nas.pruning.unknown`). The units of a convolution with groups are its groups.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.pruning.structure import Builder, Structure
from search_spaces.layout import Axis, Factor, Segment, axis, product

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.PReLU)
End = tuple[str, str]  # a layer or parameter by name, and "in" or "out"


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
            builder.tensor(name, *(_axis(text) for text in axes))
        for name, text in self.attributes.items():
            (factors,), (module, _, attribute) = _axis(text), name.rpartition(".")
            found = getattr(model.get_submodule(module), attribute)
            assert found == product(factors, self.sizes), f"{name} is {found}, not {text}"
            builder.attribute(module, attribute, *factors)
        if self.other_macs:
            builder.matmul("", count=lambda _: self.other_macs)
        return builder.build()

    def only(self, names: Collection[str]) -> Layouts:
        """Without the other dimensions: their lengths are fixed."""

        def fixed(text: str) -> str:
            words = re.split(r"([ *]+)", text)
            return "".join(word if word in names else str(self.sizes.get(word, word)) for word in words)

        return replace(
            self,
            sizes={name: size for name, size in self.sizes.items() if name in names},
            axes={name: tuple(map(fixed, texts)) for name, texts in self.axes.items()},
            attributes={name: fixed(text) for name, text in self.attributes.items()},
        )

    def with_other_macs(self, macs: int) -> Layouts:
        return replace(self, other_macs=macs)


@torch.enable_grad()  # it follows the graph of the gradients
def trace(model: nn.Module, image_size: int) -> Layouts:
    """What Torch-Pruning says; it may raise anything, and on some networks it does not come to an end."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(model.eval(), torch.zeros(1, 3, image_size, image_size), verbose=False)
    channels = _Channels(model, graph.unwrapped_parameters)
    for module in graph.module2node:
        if isinstance(module, nn.Conv2d | nn.Linear):
            pruner = graph.get_pruner_of_module(module)
            every = list(range(pruner.get_out_channels(module)))
            channels.connect(module, graph.get_pruning_group(module, pruner.prune_out_channels, every))
    return channels.layouts()


class _Channels:
    """All channels at the ends of all layers, numbered through, and which are connected."""

    def __init__(self, model: nn.Module, parameters: Iterable[tuple[nn.Parameter, int]]) -> None:
        """
        Args:
            parameters: those of no layer, each with the axis that channels lie on.
        """
        self.model = model
        self.names: dict[Any, str] = {module: name for name, module in model.named_modules()}
        self.names |= {parameter: name for name, parameter in model.named_parameters()}
        self.sizes: dict[End, int] = {}
        self.tensors: dict[str, tuple[End | int, ...]] = {}
        self.edges: list[np.ndarray] = []  # (2, …) connected channels
        self.whole: list[np.ndarray] = []  # channels that no unit may have
        self.roots: list[End] = []  # the layers' outputs that are used
        self.first: dict[End, int] = {}
        for name, module in model.named_modules():
            self._add_layer(name, module)
        for parameter, dim in parameters:
            name = self.names[parameter]
            self.tensors[name] = (*parameter.shape[:dim], self._end((name, "out"), parameter.shape[dim]))

    def _end(self, end: End, size: int) -> End:
        self.first[end] = sum(self.sizes.values())
        self.sizes[end] = size
        return end

    def _add_layer(self, name: str, layer: nn.Module) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
            out = self._end((name, "out"), layer.weight.shape[0])
            into = self._end((name, "in"), layer.weight.shape[1] * groups)
            self.tensors[f"{name}.weight"] = (out, into) if groups == 1 else (out,)
            for end in (out, into) if groups > 1 else ():  # all channels of a group with its first output
                channels = np.arange(self.sizes[end])
                group = channels // (self.sizes[end] // groups)
                self._edge(self.first[end] + channels, self.first[out] + group * (self.sizes[out] // groups))
        elif isinstance(layer, NORMS) and layer.weight is not None and layer.weight.ndim == 1 and len(layer.weight) > 1:
            out = self._end((name, "out"), len(layer.weight))
        else:
            return
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if getattr(layer, leaf, None) is not None:
                self.tensors.setdefault(f"{name}.{leaf}", (out,))

    def _edge(self, one: np.ndarray, other: np.ndarray) -> None:
        self.edges.append(np.stack([one, other]))

    def connect(self, root: nn.Module, group: Any) -> None:
        """Adds what pruning the root's outputs prunes elsewhere, by Torch-Pruning."""
        self.roots.append((self.names[root], "out"))
        first = self.first[self.roots[-1]]
        for item in group:
            dep, indices = item
            node, out = dep.target, dep.handler.__name__ == "prune_out_channels"
            roots = first + np.array(item.root_idxs)
            end = (self.names.get(node.module, ""), "out" if out else "in")
            if out and not node.outputs:  # the network's own output
                self.whole.append(roots)
            elif node.module not in self.names or (isinstance(node.module, nn.PReLU) and end not in self.sizes):
                continue  # an operation without weights, or with one for all channels
            elif end not in self.sizes or not all(0 <= i < self.sizes[end] for i in indices):
                self.whole.append(roots)
            else:
                self._edge(roots, self.first[end] + np.array(indices))

    def _units(self) -> tuple[dict[End, list[int]], set[int]]:
        """The unit that each channel of an end belongs to, and the units that may go."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = sum(self.sizes.values())
        one, other = np.concatenate(self.edges, axis=1) if self.edges else np.zeros((2, 0), int)
        _, label = connected_components(coo_array((np.ones(len(one)), (one, other)), (count, count)), directed=False)
        units = {end: label[first : first + self.sizes[end]].tolist() for end, first in self.first.items()}
        made = {unit for root in self.roots for unit in units[root]}
        return units, made - {unit for whole in self.whole for unit in label[whole].tolist()}

    def layouts(self) -> Layouts:
        units, free = self._units()
        dimensions = _dimensions(units, free)
        ends = _axes(units, dimensions)
        axes = {
            name: tuple(axis(end) if isinstance(end, int) else ends[end] for end in layout)
            for name, layout in self.tensors.items()
        }
        return Layouts(
            {name: len(members) for name, members in dimensions.items()},
            {name: tuple(map(_text, layout)) for name, layout in axes.items() if any(map(_varies, layout))},
            {name: _text(layout) for name, layout in self._attributes(ends)},
        )

    def _attributes(self, ends: Mapping[End, Axis]) -> Iterator[tuple[str, Axis]]:
        """Numbers of modules that only one layout of the layers inside can be meant by."""
        for name, module in self.model.named_modules():
            for attribute, value in vars(module).items():
                if not re.match(r"(in_ch|out_ch|groups$|dim$)", attribute):
                    continue
                inside = [end for end in ends if end[0].startswith(f"{name}.") and self.sizes[end] == value]
                layouts = {ends[end] for end in inside}
                if len(layouts) == 1 and _varies(layout := layouts.pop()) and len(layout) == 1:
                    yield f"{name}.{attribute}", layout


def _dimensions(units: Mapping[End, list[int]], free: set[int]) -> dict[str, list[int]]:
    """Units that occur at the same ends, as often, by the name of the first layer that makes them."""
    where: defaultdict[int, Counter[End]] = defaultdict(Counter)
    for end, members in units.items():
        for unit in members:
            if unit in free:
                where[unit][end] += 1
    alike: defaultdict[frozenset[tuple[End, int]], list[int]] = defaultdict(list)
    for unit, ends in where.items():
        alike[frozenset(ends.items())].append(unit)
    found: dict[str, list[int]] = {}
    for members in alike.values():
        maker = next(name for name, side in where[members[0]] if side == "out")
        same = sum(name.startswith(f"{maker}.width") for name in found)
        if len(members) > 1:
            found[f"{maker}.width{same + 1 if same else ''}"] = members
    return found


def _axes(units: Mapping[End, list[int]], dimensions: dict[str, list[int]]) -> dict[End, Axis]:
    """The layouts; takes out the dimensions whose units lie in other ways than side by side, in their order."""
    while True:
        owner = {unit: name for name, members in dimensions.items() for unit in members}
        axes = {end: _parse(members, dimensions, owner) for end, members in units.items()}
        broken = {layout for layout in axes.values() if isinstance(layout, str)}
        if not broken:
            return axes  # type: ignore[return-value]
        for name in broken:
            del dimensions[name]


def _parse(units: list[int], dimensions: Mapping[str, list[int]], owner: Mapping[int, str]) -> Axis | str:
    """The layout of an end, or the dimension that is in its way."""
    segments: list[Segment] = []
    at = 0
    while at < len(units):
        rest, name = units[at:], owner.get(units[at])
        run = next((i for i, unit in enumerate(rest) if (unit != rest[0] if name else unit in owner)), len(rest))
        if name is None:
            segments.append((run,))
            at += run
            continue
        expected = [unit for unit in dimensions[name] for _ in range(run)]
        if rest[: len(expected)] != expected:
            return name
        segments.append((name,) if run == 1 else (name, run))
        at += len(expected)
    return tuple(segments)


def _varies(layout: Axis) -> bool:
    return any(isinstance(factor, str) for segment in layout for factor in segment)


def _text(layout: Axis) -> str:
    return " + ".join("*".join(map(str, segment)) for segment in layout)


def _axis(text: str) -> Axis:
    def factor(word: str) -> Factor:
        return int(word) if word.isdecimal() else word

    return tuple(tuple(map(factor, segment.split("*"))) for segment in text.split(" + "))
