"""A network of timm as the space around it needs it: its blocks as templates, and how it is cut to smaller ones."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.deployed import deployed
from search_spaces.layout import Factor
from search_spaces.structure.base import Attribute, MatMul, Structure
from search_spaces.structure.chain import HEAD, Link, chain, run
from search_spaces.structure.costs import Costs
from search_spaces.structure.families.registry import is_known, prepare
from search_spaces.structure.fvcore_macs import fvcore_macs
from search_spaces.structure.slicing import cut, prune
from search_spaces.structure.tracing import trace
from search_spaces.structure.verify import close, randomize, settled, true_dimensions
from search_spaces.timm_network.blocks import Boundary, Template, digest_of
from search_spaces.timm_network.timm_models import create_timm


@dataclass(frozen=True)
class Block:
    """A place in the network.

    Args:
        name, prefix: as `Link` has them; parts of a block have its path as their prefix.
        dimensions: the network's, in the order of the template's.
    """

    name: str
    prefix: str
    template: Template
    dimensions: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """What is known of a network beside timm's own code, and takes long to find: plain data, of any weights.

    Args:
        known: its family is, and describes it; else it is traced.
        dimensions: that the network agrees with.
        whole: dimensions that it does not agree with.
        shapes: by block, of what it makes of one image.
        axes, terms: of those shapes, as `Boundary` has them.
        other_macs: by block, the same at all sizes.
    """

    known: bool
    dimensions: tuple[str, ...]
    whole: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    axes: dict[str, int]
    terms: dict[str, dict[str, int]]
    other_macs: dict[str, int]

    def boundary(self, name: str) -> Boundary:
        return Boundary(self.shapes[name], self.axes.get(name), tuple(self.terms.get(name, {}).items()))


_Part = TypeVar("_Part", Attribute, MatMul)
IMAGE = "image"  # the boundary before the first block


class Network:
    """
    Args:
        options: of timm's constructor, beside the number of classes.

    Attributes:
        removable: paths of blocks.
        moving_up: those behind which others move up, in a list, when they are gone.
    """

    def __init__(
        self, name: str, options: Mapping[str, Any], image_size: int, num_classes: int, description: Description
    ) -> None:
        self.name, self.options = name, dict(options)
        self.image_size, self.num_classes = image_size, num_classes
        self.description = description
        config = timm.get_pretrained_cfg(name)
        self.mean: tuple[float, ...] = tuple(config.mean if config else IMAGENET_DEFAULT_MEAN)
        self.std: tuple[float, ...] = tuple(config.std if config else IMAGENET_DEFAULT_STD)
        self._model = self.whole().eval()
        found = prepare(self._model) if description.known else trace(self._model, image_size).structure(self._model)
        self.structure = found.only(description.dimensions)
        self.sizes: dict[str, int] = self.structure.sizes
        links = chain(self._model, torch.zeros(1, 3, image_size, image_size))
        names = [IMAGE, *(link.name for link in links)]
        self.links = tuple(self._block(link, before) for link, before in zip(links, names, strict=False))
        self.removable = tuple(self._removable())
        self.moving_up = frozenset(filter(self._moves_up, self.removable))

    def _removable(self) -> Iterator[str]:
        """Paths of the blocks that the network runs without: they end with the channels that they begin with."""
        before = self.description.boundary(IMAGE)
        for path, parts in groupby(self.links, lambda link: link.prefix):
            *_, last = parts
            after = self.description.boundary(last.name)
            if path and before == after:
                yield path
            before = after

    @property
    def has_batch_norm(self) -> bool:
        return any(isinstance(part, _BatchNorm) for part in self._model.modules())

    def whole(self, drop_path_rate: float = 0.0) -> nn.Module:
        """timm's own, freshly initialized, and prepared to be cut."""
        made: nn.Module = create_timm("--space", self.name, self.num_classes, self.options, drop_path_rate)
        self.prepare(made)
        return made

    def _block(self, link: Link, before_name: str) -> Block:
        found = self.description
        ends = found.boundary(before_name), found.boundary(link.name)
        if link.name == HEAD:  # what is found is kept for any number of classes
            ends = ends[0], Boundary((self.num_classes,))
        structure, dimensions = _within(self.structure, link, ends)
        local = dict(zip(dimensions, structure.sizes, strict=True))
        before, after = (replace(end, terms=tuple((local[n], each) for n, each in end.terms)) for end in ends)
        digest = digest_of(link.module, (before, after), structure.axes)
        residual = bool(link.prefix) and before == after
        count = sum(p.numel() for name, p in link.module.named_parameters() if name not in structure.merged)
        fuses = sum(p.numel() for p in deployed(link.module).parameters()) != count
        template = Template(
            link.kind, digest, link.module, structure, before, after, found.other_macs[link.name], residual, fuses
        )
        return Block(link.name, link.prefix, template, dimensions)

    def cut(self, sizes: Mapping[str, int], removed: Sequence[str], drop_path_rate: float = 0.0) -> nn.Module:
        """A network of these sizes without these blocks, freshly initialized."""
        model = self.whole(drop_path_rate)
        prune(model, self.structure, self.kept(sizes))
        for path in reversed(removed):
            parent, _, leaf = path.rpartition(".")
            holder: Any = model.get_submodule(parent)
            if path in self.moving_up:
                del holder[int(leaf)]
            else:
                setattr(holder, leaf, nn.Identity())
        return model.to(torch.get_default_device())

    def _moves_up(self, path: str) -> bool:
        """Whether what lies behind that block moves up when it is gone: in a list of blocks alone.

        Elsewhere the block becomes one that does nothing, and all others keep their names.
        """
        parent, _, leaf = path.rpartition(".")
        holder, blocks = self._model.get_submodule(parent), {link.prefix for link in self.links}
        held = [name for name, child in holder.named_children() if child.state_dict()]
        is_list = isinstance(holder, nn.Sequential | nn.ModuleList) and leaf.isdecimal()
        return is_list and all(_join(parent, name) in blocks for name in held)

    def prepare(self, model: nn.Module) -> None:
        """Makes timm's network one that can be cut, in place, without changing its tensors or what it computes."""
        if self.description.known:
            prepare(model)

    def kept(self, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """The first units of the dimensions that are not whole at these sizes."""
        return {name: np.arange(size) for name, size in sizes.items() if size < self.sizes[name]}


def _within(structure: Structure, link: Link, ends: Sequence[Boundary]) -> tuple[Structure, tuple[str, ...]]:
    """The part of the structure that lies in a block, dimensions by names of its own, and what these were before."""
    start = f"{link.prefix}." if link.prefix else ""
    tensors = link.module.state_dict()
    axes = {name: structure.axes[start + name] for name in tensors if start + name in structure.axes}
    used = [f for layouts in axes.values() for layout in layouts for segment in layout for f in segment]
    ordered = dict.fromkeys((*(n for n in used if isinstance(n, str)), *(n for end in ends for n, _ in end.terms)))
    local = {name: f"d{i}" for i, name in enumerate(ordered)}
    dimensions = {dimension.name: dimension for dimension in structure.dimensions}

    def renamed(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
        return tuple(local[f] if isinstance(f, str) else f for f in factors)

    return Structure(
        tuple(replace(dimensions[name], name=local[name]) for name in ordered),
        {n: tuple(tuple(map(renamed, layout)) for layout in layouts) for n, layouts in axes.items()},
        tuple(replace(m, module=at, factors=renamed(m.factors)) for m, at in _inside(structure.matmuls, link)),
        tuple(
            replace(a, module=at, factors=renamed(a.factors))
            for a, at in _inside(structure.attributes, link)
            if all(f in local for f in a.factors if isinstance(f, str))  # else it is of layers in another part
        ),
        frozenset(name for name in tensors if start + name in structure.merged),
    ), tuple(ordered)


def _inside(parts: Iterable[_Part], link: Link) -> Iterator[tuple[_Part, str]]:
    """Those of modules in the block, with their module's path in it."""
    known = {_join(link.prefix, name): name for name, _ in link.module.named_modules() if link.prefix or name}
    return ((part, known[part.module]) for part in parts if part.module in known)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


# ---- describing


@torch.no_grad()
def describe(model: nn.Module, image_size: int) -> Description:
    """Finds out what can be narrowed of timm's network, as its family says or by following it; prepares it for that.

    Raises:
        ValueError: it is no chain of blocks, or nothing of it can be narrowed; says why.
    """
    model = model.eval()
    image = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    chain(model, image)  # it takes less than the rest
    for name, buffer in model.named_buffers():
        if not torch.equal(buffer, before[name]):
            raise ValueError(f"its {name} is made when it runs, so its weights alone do not make a block")
    known = is_known(model)
    structure = prepare(model) if known else trace(model, image_size).structure(model)
    found, _ = true_dimensions(model, structure, image_size)
    if not found:
        raise ValueError("nothing of it can be narrowed")
    whole = tuple(name for name in structure.sizes if name not in found)
    structure = structure.only(found)
    tried = settled(randomize(copy.deepcopy(model)), image)
    links = chain(tried, image)
    made = [image, *run(links, image)]
    if not close(made[-1], tried(image), 1e-4):
        raise ValueError("its blocks, run one after another, compute something else")
    axes, terms = _boundaries(structure, links, made)
    names = [IMAGE, *(link.name for link in links)]
    shapes = {name: tuple(x.shape[1:]) for name, x in zip(names, made, strict=True)}
    other = {link.name: _other_macs(structure, link, x) for link, x in zip(links, made, strict=False)}
    return Description(known, found, whole, shapes, axes, terms, other)


def _other_macs(structure: Structure, link: Link, x: Tensor) -> int:
    part, _ = _within(structure.trained(), link, ())
    return fvcore_macs(link.module, x) - Costs(link.module, part, x).macs(part.sizes)


def _boundaries(
    structure: Structure, links: Sequence[Link], made: Sequence[Tensor]
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """By block, the axis of its output that has the channels, and the dimensions that they follow from.

    Found by taking one unit of a dimension away at a time.

    Args:
        made: the image, and what each block makes of the one before.
    """
    axes: dict[str, int] = {}
    terms: dict[str, dict[str, int]] = {}
    parts = [_within(structure, link, ()) for link in links]
    for name, size in structure.sizes.items():
        x: Tensor | None = None  # where it differs from the whole network's
        for link, before, after, (part, names) in zip(links, made, made[1:], parts, strict=False):
            module = link.module
            if name in names:
                local = tuple(part.sizes)[names.index(name)]
                module, _ = cut(module, part, {local: torch.arange(size - 1)})
            elif x is None:
                continue
            x = module(before if x is None else x)
            if x.shape == after.shape:
                x = None
                continue
            sizes = enumerate(zip(after.shape[1:], x.shape[1:], strict=True))
            (axis, less), *others = ((i, whole - smaller) for i, (whole, smaller) in sizes if whole != smaller)
            if others or axes.setdefault(link.name, axis) != axis:
                raise ValueError(f"two axes of what {link.name} makes have channels")
            terms.setdefault(link.name, {})[name] = less
    return axes, terms
