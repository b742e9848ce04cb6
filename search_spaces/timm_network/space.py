"""The space around one network of timm: the network itself is the largest, the others are parts of it.

What can be narrowed follows from running it (`search_spaces.structure`): each dimension has a few sizes, and a block
goes where the network runs without it. So any pretrained network whose forward pass is a chain of blocks has a space.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING

from search_spaces.base import Arch, Choice, SearchSpace
from search_spaces.block import Slot
from search_spaces.timm_network.blocks import Template, TimmBlock

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.timm_network.network import Network

LEAST = 16  # a dimension of fewer units stays whole, but for heads
FIELDS = ("width", "present", "heads", "key", "value", "expansion")


class TimmSpace(SearchSpace):
    """Elastic: every dimension's size, and the presence of every block that the network runs without.

    Fields: `width` has the dimensions that several blocks share, `present` the removable blocks, `expansion` the
    dimensions inside one block, but for those of attentions: `heads`, and what each has of a query and `key` and of a
    `value`. All are in the order of execution.

    Args:
        steps: sizes of a dimension are k / steps of it, from a half on of a width, from a fourth on of an expansion and
            of heads; keys and values have a half and the whole.
        multiple: what sizes are multiples of, but for the number of heads.
    """

    def __init__(self, name: str, network: Network, steps: int = 4, multiple: int = 8) -> None:
        self.name, self.network = name, network
        self.image_size, self.num_classes = network.image_size, network.num_classes
        self.mean, self.std = network.mean, network.std
        self.finetune = "finetune" if network.has_batch_norm else "finetune-gently"
        self.remarks = tuple(_remarks(network))
        links = network.links
        uses = Counter(dimension for link in links for dimension in link.dimensions)
        removable = [i for i, link in enumerate(links) if link.template.removable]
        kinds = {dimension.name: dimension.kind for dimension in network.structure.dimensions}
        fields = {d: _field(kinds[d], uses[d] > 1) for link in links for d in link.dimensions}
        choices: list[Choice] = []
        self._at: dict[str, int] = {}
        self._present: dict[int, int] = {}
        for field in FIELDS:
            for i, d in enumerate(d for d in fields if fields[d] == field):
                self._at[d] = len(choices)
                choices.append(Choice(field, (i,), _options(field, network.sizes[d], steps, multiple)))
            for i, at in enumerate(removable) if field == "present" else ():
                self._present[at] = len(choices)
                choices.append(Choice(field, (i,), (0, 1)))
        self.choices = tuple(choices)
        self._own = {i: [self._at[d] for d in links[i].dimensions if uses[d] == 1] for i in removable}
        self.slots = tuple(self._slots())

    def _slots(self) -> Iterator[Slot]:
        for i, link in enumerate(self.network.links):
            choices = [self._at[d] for d in link.dimensions]
            if i in self._present:
                yield Slot((self._present[i], *choices), partial(_removable, link.name, link.template))
            else:
                yield Slot((*choices,) or (0,), partial(_block, link.name, link.template))

    # ---- archs

    def canonical(self, values: Sequence[int]) -> tuple[int, ...]:
        """An absent block has no sizes of its own."""
        result = list(values)
        for i, at in self._present.items():
            if not values[at]:
                for own in self._own[i]:
                    result[own] = self.choices[own].options[0]
        return tuple(result)

    def sample(self, rng: random.Random) -> Arch:
        """Sizes uniform; of each run of removable blocks the number uniform, which of them at random."""
        values = [rng.choice(choice.options) for choice in self.choices]
        for run in self._runs:
            kept = set(rng.sample(run, rng.randint(0, len(run))))
            for i in run:
                values[self._present[i]] = int(i in kept)
        return Arch(self.name, self.canonical(values))

    @cached_property
    def _runs(self) -> list[list[int]]:
        """Removable blocks that follow one another."""
        runs: list[list[int]] = []
        for i in self._present:
            if runs and runs[-1][-1] == i - 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        return runs

    def size(self) -> int:
        own = {at for places in self._own.values() for at in places}
        free = prod(
            len(choice.options)
            for at, choice in enumerate(self.choices)
            if at not in own and at not in self._present.values()
        )
        return free * prod(1 + prod(len(self.choices[at].options) for at in self._own[i]) for i in self._present)

    @property
    def smallest(self) -> Arch:
        return Arch(self.name, self.canonical([choice.options[0] for choice in self.choices]))

    @cached_property
    def published(self) -> dict[str, Arch]:
        """The network itself."""
        return {self.network.name.lower(): self.largest}

    # ---- models

    def _removed(self, arch: Arch) -> list[str]:
        """Paths of the blocks that are absent."""
        return [self.network.links[i].name for i, at in self._present.items() if not arch.values[at]]

    def _sizes(self, arch: Arch) -> dict[str, int]:
        return {dimension: arch.values[at] for dimension, at in self._at.items()}

    def module_names(self, arch: Arch) -> dict[str, str]:
        removed = self._removed(arch)
        return {link.name: _renumbered(link.prefix, removed) for link in self.network.links if link.name not in removed}

    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        """timm's network, its layers cut and blocks taken out; drop path as timm has it in this network."""
        return self.network.cut(self._sizes(arch), self._removed(arch), drop_path_rate)

    def source(self, arch: Arch) -> str:
        from search_spaces.timm_network.source import source_of

        return source_of(self.network, self._sizes(arch), self._removed(arch))


def _remarks(network: Network) -> Iterator[str]:
    links, whole = network.links, network.description.whole
    removable = [link.name for link in links if link.template.removable]
    yield f"{len(links)} blocks, {len(removable)} of them removable; {len(network.sizes)} dimensions"
    if whole:
        yield f"whole stay, since the network does not run without a part of them: {', '.join(whole)}"
    small = [d.name for d in network.structure.dimensions if d.size < LEAST and d.kind != "heads"]
    if small:
        yield f"whole stay, of less than {LEAST} units: {', '.join(small)}"
    if any(link.template.other_macs for link in links):
        yield "whole stays what is not followed from layer to layer: the heads of attentions"


def _field(kind: str, shared: bool) -> str:
    return kind if kind in ("heads", "key", "value") else "width" if shared else "expansion"


def _options(field: str, size: int, steps: int, multiple: int) -> tuple[int, ...]:
    """Near k / steps of it, and the whole."""
    if field == "heads":
        multiple = 1
    elif size < LEAST:
        return (size,)
    least = steps // 4 if field in ("heads", "expansion") else steps // 2
    parts = [size / 2] if field in ("key", "value") else [size * k / steps for k in range(max(1, least), steps)]
    near = {max(1, round(part / multiple)) * multiple for part in parts}
    return (*sorted(n for n in near if n < size), size)


def _block(name: str, template: Template, *sizes: int) -> TimmBlock:
    return TimmBlock(name, template, sizes[: len(template.whole)])


def _removable(name: str, template: Template, present: int, *sizes: int) -> TimmBlock | None:
    return TimmBlock(name, template, sizes) if present else None


def _renumbered(path: str, removed: Sequence[str]) -> str:
    """A block's path once those are gone from the lists that they are in; a name that is no number stays."""
    parent, _, leaf = path.rpartition(".")
    if not leaf.isdecimal():
        return path
    places = (path.rpartition(".") for path in removed)
    before = sum(place == parent and name.isdecimal() and int(name) < int(leaf) for place, _, name in places)
    return f"{parent}.{int(leaf) - before}"
