"""How the axes of a tensor are made of sizes, and where a smaller network's numbers lie in a larger one's.

An axis is a sequence of *segments*, one after another, each the row-major product of *factors*: named sizes, which a
smaller network has less of, and fixed lengths. The fused projection of a ViT block, (3 · heads · key, width), is

    "attn.qkv.weight": (axis((3, "heads", "key")), axis("width"))

and a convolution on two maps, one behind the other, has `axis("width", "returned")` as its input. A smaller network has
the same segments with smaller sizes. Pruning keeps some units of each size, a supernet's subnets the first ones; either
way `places` says where what is kept lies, so every row keeps its role: by a plain prefix of the axis the smaller
network's queries, keys and values would all be rows of the larger one's queries.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Factor = str | int  # a size's name, or a fixed length
Segment = tuple[Factor, ...]
Axis = tuple[Segment, ...]
Sizes = Mapping[str, int]


def axis(*segments: Factor | Segment) -> Axis:
    return tuple(segment if isinstance(segment, tuple) else (segment,) for segment in segments)


@dataclass(frozen=True)
class Layout:
    """The axes of a module's tensors.

    Args:
        sizes: what the names in `axes` stand for.
        axes: by the tensor's name, those of its first dimensions; all further ones are plain.
    """

    sizes: Sizes = field(default_factory=dict)
    axes: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)


def product(factors: Iterable[Factor], sizes: Sizes) -> int:
    return math.prod(factor if isinstance(factor, int) else sizes[factor] for factor in factors)


def length(layout: Axis, sizes: Sizes) -> int:
    return sum(product(segment, sizes) for segment in layout)


def fixed(factors: Iterable[Factor], sizes: Sizes, free: Collection[str]) -> Segment:
    """The factors with the sizes of all names but these in their place."""
    return tuple(factor if isinstance(factor, int) or factor in free else sizes[factor] for factor in factors)


def units(layout: Axis, sizes: Sizes, name: str) -> np.ndarray:
    """(length,) which unit of the named size each place of the axis belongs to, -1 where it belongs to none."""
    parts = []
    for segment in layout:
        shape = [product([factor], sizes) for factor in segment]
        if name in segment:
            at = segment.index(name)
            unit = np.arange(shape[at]).reshape([-1 if i == at else 1 for i in range(len(shape))])
            parts.append(np.broadcast_to(unit, shape).reshape(-1))
        else:
            parts.append(np.full(math.prod(shape), -1))
    return np.concatenate(parts)


def places(layout: Axis, sizes: Sizes, kept: Mapping[str, Any]) -> np.ndarray:
    """Indices along the axis of what remains, ascending.

    Args:
        kept: by the size's name, indices of the units that remain (an array, or a tensor on the CPU); a size left out
            is whole.
    """
    remains = np.ones(length(layout, sizes), dtype=bool)
    for name in {factor for segment in layout for factor in segment if isinstance(factor, str) and factor in kept}:
        alive = np.zeros(sizes[name] + 1, dtype=bool)
        alive[np.asarray(kept[name])] = True
        alive[-1] = True  # places of no unit, -1
        remains &= alive[units(layout, sizes, name)]
    return np.flatnonzero(remains)
