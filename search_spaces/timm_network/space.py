"""The space around one network of timm: the network itself is the largest, the others are parts of it.

What can be narrowed follows from running it (`search_spaces.structure`): each dimension has a few sizes, and a block
goes where the network runs without it. So any pretrained network whose forward pass is a chain of blocks has a space.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby, product
from math import prod
from typing import TYPE_CHECKING

from search_spaces.base import Arch, Choice, SearchSpace
from search_spaces.block import Slot
from search_spaces.timm_network.blocks import Template, TimmBlock

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.timm_network.network import Network

LEAST = 16  # a dimension of fewer units stays whole, but for heads
MOST_FORMS = 2000  # of a block: a supernet holds norms, and a latency table a row, for each
FIELDS = ("width", "present", "heads", "key", "value", "expansion")


class TimmSpace(SearchSpace):
    """Elastic: every dimension's size, and the presence of every block that the network runs without.

    Fields: `width` has the dimensions that several blocks share, `present` the removable blocks, `expansion` the
    dimensions inside one block, but for those of attentions: `heads`, and what each has of a query and `key` and of a
    `value`. All are in the order of execution.

    Args:
        steps: sizes of a dimension are k / steps of it, from a half on of a width, from a fourth on of an expansion and
            of heads; keys and values have a half and the whole. Where a block would have more than `MOST_FORMS`, some
            of its dimensions have a half and the whole, or stay whole.
        multiple: what sizes are multiples of, but for the number of heads.
    """

    def __init__(self, name: str, network: Network, steps: int = 4, multiple: int = 8) -> None:
        self.name, self.network = name, network
        self.image_size, self.num_classes = network.image_size, network.num_classes
        self.mean, self.std = network.mean, network.std
        self.finetune = "finetune" if network.has_batch_norm else "finetune-gently"
        users: dict[str, set[str]] = {}
        for link in network.links:
            for dimension in link.dimensions:
                users.setdefault(dimension, set()).add(link.prefix or link.name)
        kinds = {dimension.name: dimension.kind for dimension in network.structure.dimensions}
        fields = {d: _field(kinds[d], len(blocks) > 1) for d, blocks in users.items()}
        wanted = {d: _options(field, network.sizes[d], steps, multiple) for d, field in fields.items()}
        inner = [d for d, blocks in users.items() if len(blocks) == 1]
        options = _few([link.dimensions for link in network.links], wanted, inner)
        self.remarks = tuple(_remarks(network, [d for d in users if options[d] != wanted[d]]))
        choices: list[Choice] = []
        self._at: dict[str, int] = {}  # dimensions and removable blocks by their names
        for field in FIELDS:
            names = network.removable if field == "present" else [d for d in users if fields[d] == field]
            for i, name in enumerate(names):
                self._at[name] = len(choices)
                choices.append(Choice(field, (i,), (0, 1) if field == "present" else options[name]))
        self.choices = tuple(choices)
        self._own = {
            path: [self._at[d] for d, blocks in users.items() if blocks == {path}] for path in network.removable
        }
        self.slots = tuple(self._slots())

    def _slots(self) -> Iterator[Slot]:
        for link in self.network.links:
            choices = [self._at[d] for d in link.dimensions]
            if link.prefix in self._own:
                yield Slot((self._at[link.prefix], *choices), partial(_removable, link.name, link.template))
            else:
                yield Slot((*choices,) or (0,), partial(_block, link.name, link.template))

    # ---- archs

    def canonical(self, values: Sequence[int]) -> tuple[int, ...]:
        """An absent block has no sizes of its own."""
        result = list(values)
        for path, places in self._own.items():
            if not values[self._at[path]]:
                for at in places:
                    result[at] = self.choices[at].options[0]
        return tuple(result)

    def sample(self, rng: random.Random) -> Arch:
        """Sizes uniform; of each run of removable blocks the number uniform, which of them at random."""
        values = [rng.choice(choice.options) for choice in self.choices]
        for run in self._runs:
            kept = set(rng.sample(run, rng.randint(0, len(run))))
            for path in run:
                values[self._at[path]] = int(path in kept)
        return Arch(self.name, self.canonical(values))

    @cached_property
    def _runs(self) -> list[list[str]]:
        """Removable blocks that follow one another."""
        blocks = dict.fromkeys(link.prefix for link in self.network.links)
        return [list(run) for removable, run in groupby(blocks, self._own.__contains__) if removable]

    def size(self) -> int:
        own = {at for places in self._own.values() for at in places}
        free = prod(len(c.options) for at, c in enumerate(self.choices) if at not in own and c.field != "present")
        return free * prod(1 + prod(len(self.choices[at].options) for at in places) for places in self._own.values())

    @cached_property
    def published(self) -> dict[str, Arch]:
        """The network itself."""
        return {self.network.name.lower(): self.largest}

    # ---- models

    def _removed(self, arch: Arch) -> list[str]:
        """Paths of the blocks that are absent."""
        return [path for path in self._own if not arch.values[self._at[path]]]

    def _sizes(self, arch: Arch) -> dict[str, int]:
        return {dimension: arch.values[self._at[dimension]] for dimension in self.network.sizes}

    def module_names(self, arch: Arch) -> dict[str, str]:
        removed = self._removed(arch)
        links = [link for link in self.network.links if link.prefix not in removed]
        gone = [path for path in removed if path in self.network.moving_up]
        return {link.name: _renumbered(link.prefix, gone) for link in links}

    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        """timm's network, its layers cut and blocks taken out; drop path as timm has it in this network."""
        return self.network.cut(self._sizes(arch), self._removed(arch), drop_path_rate)

    def source(self, arch: Arch) -> str:
        from search_spaces.timm_network.source import source_of

        return source_of(self.network, self._sizes(arch), self._removed(arch))


def _remarks(network: Network, coarse: Sequence[str]) -> Iterator[str]:
    links, whole = network.links, network.description.whole
    blocks = {link.prefix or link.name for link in links}
    yield f"{len(blocks)} blocks, {len(network.removable)} of them removable; {len(network.sizes)} dimensions"
    if whole:
        yield f"whole stay, since the network does not run without a part of them: {', '.join(whole)}"
    small = [d.name for d in network.structure.dimensions if d.size < LEAST and d.kind != "heads"]
    if small:
        yield f"whole stay, of less than {LEAST} units: {', '.join(small)}"
    if coarse:
        yield f"half or whole, or whole alone, so that no block has over {MOST_FORMS} forms: {', '.join(coarse)}"
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


def _few(
    blocks: Sequence[Sequence[str]], options: Mapping[str, tuple[int, ...]], inner: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """The options with which no block has more than `MOST_FORMS`: of some dimensions a half and the whole, then the
    whole alone; those inside one block come first, and of these the smallest.

    Args:
        blocks: the dimensions of each.
        options: of each dimension, rising to the whole.
        inner: the dimensions inside one block.
    """
    few = dict(options)
    for dimensions in blocks:
        order = sorted(dimensions, key=lambda name: (name not in inner, options[name][-1]))
        for fewer, name in product((_half_and_whole, _whole), order):
            if prod(len(few[each]) for each in dimensions) > MOST_FORMS:
                few[name] = fewer(few[name])
    return few


def _half_and_whole(options: tuple[int, ...]) -> tuple[int, ...]:
    *smaller, whole = options
    return (min(smaller, key=lambda size: abs(size - whole / 2)), whole) if smaller else (whole,)


def _whole(options: tuple[int, ...]) -> tuple[int, ...]:
    return options[-1:]


def _block(name: str, template: Template, *sizes: int) -> TimmBlock:
    return TimmBlock(name, template, sizes[: len(template.whole)])


def _removable(name: str, template: Template, present: int, *sizes: int) -> TimmBlock | None:
    return TimmBlock(name, template, sizes) if present else None


def _renumbered(path: str, removed: Sequence[str]) -> str:
    """A block's path once those are gone from the lists that they are in."""
    gone = [path.rpartition(".") for path in removed]
    found: list[str] = []
    parent = ""
    for name in path.split("."):
        before = sum(p == parent and name.isdecimal() and int(n) < int(name) for p, _, n in gone)
        found.append(str(int(name) - before) if before else name)
        parent = f"{parent}.{name}" if parent else name
    return ".".join(found)
