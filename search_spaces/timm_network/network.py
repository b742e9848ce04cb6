"""A network of timm as the space around it needs it: its blocks as templates, and how it is cut to smaller ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.deployed import deployed
from search_spaces.layout import Factor
from search_spaces.structure.base import Structure
from search_spaces.structure.chain import HEAD, STEM, Link, chain, run
from search_spaces.structure.costs import layer_macs
from search_spaces.structure.fvcore_macs import fvcore_macs
from search_spaces.structure.layouts import Layouts
from search_spaces.structure.slicing import cut, prune
from search_spaces.structure.tracing import trace
from search_spaces.timm_network.blocks import Boundary, Template, digest_of
from search_spaces.timm_network.timm_models import create_timm


@dataclass(frozen=True)
class Block:
    """A place in the network.

    Args:
        name, prefix: as `Link` has them.
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
        dimensions: that the network agrees with.
        whole: dimensions that it does not agree with.
        shapes: by block, of what it makes of one image.
        axes, terms: of those shapes, as `Boundary` has them.
        other_macs: by block.
    """

    dimensions: tuple[str, ...]
    whole: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    axes: dict[str, int]
    terms: dict[str, dict[str, int]]
    other_macs: dict[str, int]

    def boundary(self, name: str) -> Boundary:
        return Boundary(self.shapes[name], self.axes.get(name), tuple(self.terms.get(name, {}).items()))


IMAGE = "image"  # the boundary before the first block


class Network:
    """
    Args:
        options: of timm's constructor, beside the number of classes.
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
        self._model = self._whole().eval()
        found = trace(self._model, image_size).only(description.dimensions)
        self.structure = found.structure(self._model)
        self.sizes: dict[str, int] = self.structure.sizes
        links = chain(self._model)
        names = [IMAGE, *(link.name for link in links)]
        self.links = tuple(self._block(link, before) for link, before in zip(links, names, strict=False))

    @property
    def has_batch_norm(self) -> bool:
        return any(isinstance(part, _BatchNorm) for part in self._model.modules())

    def _whole(self, drop_path_rate: float = 0.0) -> nn.Module:
        """timm's own, freshly initialized."""
        made: nn.Module = create_timm("--space", self.name, self.num_classes, self.options, drop_path_rate)
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
        kind = link.name if link.name in (STEM, HEAD) else type(link.module).__name__
        removable = bool(before.terms) and before == after and link.prefix == link.name
        count = sum(p.numel() for p in link.module.parameters())
        fuses = sum(p.numel() for p in deployed(link.module).parameters()) != count
        template = Template(
            kind, digest, link.module, structure, before, after, found.other_macs[link.name], removable, fuses
        )
        return Block(link.name, link.prefix, template, dimensions)

    def cut(self, sizes: Mapping[str, int], removed: Sequence[str], drop_path_rate: float = 0.0) -> nn.Module:
        """A network of these sizes without these blocks, freshly initialized."""
        model = self._whole(drop_path_rate)
        kept = {name: np.arange(size) for name, size in sizes.items() if size < self.sizes[name]}
        prune(model, self.structure, kept)
        for path in reversed(removed):
            parent, _, leaf = path.rpartition(".")
            _take_out(model.get_submodule(parent), leaf)
        return model.to(torch.get_default_device())

    def source(self, sizes: Mapping[str, int], removed: Sequence[str]) -> str:
        """Python source of a module whose `create_model()` is `cut(sizes, removed)`."""
        with torch.device("meta"):
            whole = self._whole()
            smaller = copy.deepcopy(whole)
        kept = {name: np.arange(size) for name, size in sizes.items() if size < self.sizes[name]}
        prune(smaller, self.structure, kept)
        before = whole.state_dict()
        shapes = {n: tuple(t.shape) for n, t in smaller.state_dict().items() if t.shape != before[n].shape}
        numbers = dict(_changed(whole, smaller))
        rows = "".join(f"    {name!r}: {shape!r},\n" for name, shape in shapes.items())
        values = "".join(f"    {name!r}: {value!r},\n" for name, value in numbers.items())
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        gone = f"REMOVED = {list(removed)!r}\n"
        return _SOURCE.format(
            name=self.name, classes=self.num_classes, options=options, shapes=rows, numbers=values, removed=gone
        )


_SOURCE = """import timm
import torch
from torch import nn

# Tensors that are smaller than timm's, and the attributes of their layers.
SHAPES = {{
{shapes}}}
NUMBERS = {{
{numbers}}}
# Blocks that are taken out, the last first.
{removed}

def create_model() -> nn.Module:
    model = timm.create_model("{name}", num_classes={classes}{options})
    for path, shape in SHAPES.items():
        owner, _, name = path.rpartition(".")
        layer = model.get_submodule(owner)
        part = getattr(layer, name)[tuple(slice(size) for size in shape)].detach().clone()
        setattr(layer, name, nn.Parameter(part) if isinstance(getattr(layer, name), nn.Parameter) else part)
    for path, value in NUMBERS.items():
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, value)
    for path in reversed(REMOVED):
        parent, _, name = path.rpartition(".")
        holder = model.get_submodule(parent)
        if isinstance(holder, nn.Sequential | nn.ModuleList):
            del holder[int(name)]
        else:
            setattr(holder, name, nn.Identity())
    return model
"""


def _changed(whole: nn.Module, smaller: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes of modules, by their path, that are not what they were."""
    others = dict(whole.named_modules())
    for name, module in smaller.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, int | tuple) and value != getattr(others[name], attribute):
                yield f"{name}.{attribute}", value


def _take_out(parent: nn.Module, name: str) -> None:
    """Those behind it in a list move up; elsewhere nothing is done in its place."""
    if isinstance(parent, nn.Sequential | nn.ModuleList):
        del parent[int(name)]
    else:
        setattr(parent, name, nn.Identity())


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
        attributes=tuple(
            replace(attribute, module=inside, factors=renamed(attribute.factors))
            for attribute in structure.attributes
            if (inside := _inside(attribute.module, link)) is not None
        ),
    ), tuple(ordered)


def _inside(module: str, link: Link) -> str | None:
    """The path within the block of a module of the network; None if it lies elsewhere."""
    if link.prefix and module == link.prefix:
        return ""
    start = f"{link.prefix}." if link.prefix else ""
    inside = module[len(start) :]
    known = module.startswith(start) and inside and inside in dict(link.module.named_modules())
    return inside if known else None


# ---- describing


@torch.no_grad()
def describe(model: nn.Module, layouts: Layouts, whole: Sequence[str], image_size: int) -> Description:
    """
    Args:
        layouts: that are true of the model.

    Raises:
        ValueError: it is no chain of blocks, or its blocks are not what the layouts say; says why.
    """
    model = model.eval()
    image = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    links = chain(model)
    made = [image, *run(links, image)]
    if not torch.allclose(made[-1], model(image), rtol=1e-4, atol=1e-5):
        raise ValueError("its blocks, run one after another, compute something else")
    axes, terms = _boundaries(layouts.structure(model), links, made)
    names = [IMAGE, *(link.name for link in links)]
    shapes = {name: tuple(x.shape[1:]) for name, x in zip(names, made, strict=True)}
    other = {
        link.name: fvcore_macs(link.module, x) - layer_macs(link.module, x)
        for link, x in zip(links, made, strict=False)
    }
    return Description(tuple(layouts.sizes), tuple(whole), shapes, axes, terms, other)


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
