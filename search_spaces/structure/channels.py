"""The channels of a network of any family: which of them can only go together, and the dimensions that they make.

Channels that are connected are a unit, and units that lie side by side everywhere are a dimension (as in Fang et al.,
DepGraph: Towards Any Structural Pruning, CVPR 2023); from there on all is as for the known families. The units of a
convolution with groups are its groups.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.layout import Axis, Segment, axis
from search_spaces.structure.layouts import Layouts, to_text

NORMS = (_BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.PReLU)
End = tuple[str, str]  # a layer or parameter by name, and "in" or "out"


class Channels:
    """All channels at the ends of all layers, numbered through, and which are connected."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.sizes: dict[End, int] = {}
        self.tensors: dict[str, tuple[End | int, ...]] = {}
        self._first: dict[End, int] = {}
        self._edges: list[np.ndarray] = []  # (2, …) connected channels
        self._whole: list[np.ndarray] = []  # channels that no unit may have
        self._made: list[End] = []  # outputs of layers that were seen to run
        for name, module in model.named_modules():
            self._add_layer(name, module)
        for name, parameter in model.named_parameters():
            if name not in self.tensors and max(parameter.shape, default=0) > 1:
                self._add_parameter(name, parameter)

    def _add(self, end: End, size: int) -> End:
        self._first[end] = sum(self.sizes.values())
        self.sizes[end] = size
        return end

    def _add_parameter(self, name: str, parameter: nn.Parameter) -> None:
        """Of no known layer: channels lie on its last axis, or on that of maps, (1, channels, height, width)."""
        at = 1 if parameter.ndim == 4 else max(i for i, size in enumerate(parameter.shape) if size > 1)
        shape = parameter.shape
        self.tensors[name] = (*shape[:at], self._add((name, "out"), shape[at]))

    def _add_layer(self, name: str, layer: nn.Module) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
            out = self._add((name, "out"), layer.weight.shape[0])
            into = self._add((name, "in"), layer.weight.shape[1] * groups)
            self.tensors[f"{name}.weight"] = (out, into) if groups == 1 else (out,)
            for end in (out, into) if groups > 1 else ():  # all channels of a group with its first output
                channels = np.arange(self.sizes[end])
                group = channels // (self.sizes[end] // groups)
                self.connect(self._first[end] + channels, self._first[out] + group * (self.sizes[out] // groups))
        elif isinstance(layer, NORMS) and layer.weight is not None and layer.weight.ndim == 1 and len(layer.weight) > 1:
            out = self._add((name, "out"), len(layer.weight))
        else:
            return
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if getattr(layer, leaf, None) is not None:
                self.tensors.setdefault(f"{name}.{leaf}", (out,))

    def of(self, end: End) -> np.ndarray:
        """(size,) the numbers of its channels."""
        return np.arange(self._first[end], self._first[end] + self.sizes[end])

    def connect(self, one: np.ndarray, other: np.ndarray) -> None:
        """These channels are used together, pairwise; a number below 0 is of none that may go."""
        known = (one >= 0) & (other >= 0)
        self._edges.append(np.stack([one[known], other[known]]))
        self.fix(one[other < 0])
        self.fix(other[one < 0])

    def fix(self, channels: np.ndarray) -> None:
        """These stay."""
        self._whole.append(channels[channels >= 0])

    def made(self, end: End) -> None:
        """The layer runs: without it, nothing is known of its channels."""
        self._made.append(end)

    def _units(self) -> tuple[dict[End, list[int]], set[int]]:
        """The unit that each channel of an end belongs to, and the units that may go."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = sum(self.sizes.values())
        one, other = np.concatenate(self._edges, axis=1) if self._edges else np.zeros((2, 0), int)
        _, label = connected_components(coo_array((np.ones(len(one)), (one, other)), (count, count)), directed=False)
        units = {end: label[first : first + self.sizes[end]].tolist() for end, first in self._first.items()}
        made = {unit for end in self._made for unit in units[end]}
        return units, made - {unit for whole in self._whole for unit in label[whole].tolist()}

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
            {name: tuple(map(to_text, layout)) for name, layout in axes.items() if any(map(_varies, layout))},
            {name: to_text(layout) for name, layout in self._attributes(ends)},
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
