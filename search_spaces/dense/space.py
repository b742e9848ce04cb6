"""The space of networks for boxes or masks: those of another space, with a head in the place of the classifier.

`mobileone-nano+ssdlite` has the choices of `mobileone-nano`. A head's parts are slots: one that takes a map on the way
stands behind the block that makes it, and what it makes passes by the blocks that follow (`passing`). So supernets,
costs, tables and searches need not know what a network is for.
"""

from __future__ import annotations

import itertools
import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from search_spaces.base import Arch, SearchSpace
from search_spaces.block import BlockSpec, Slot
from search_spaces.command import UserError
from search_spaces.dense.blocks import Extra, Passing, PixelClassifier, Pooled, Predictor, Pyramid
from search_spaces.dense.cuts import Cut, cuts
from search_spaces.dense.plans import Plan, plan, rates

if TYPE_CHECKING:
    from torch import nn

ANY = (0,)  # choices of a slot whose block depends on none: costs want one


class HeadedSpace(SearchSpace):
    """
    Args:
        base: of the backbones, for the images.
        num_classes: of the objects or pixels.
    """

    head: str  # its name ends with this
    task: str  # what its networks learn, as `nas.train_supernet --task` has it; `nas.TASK` trains one
    figure: str  # that they are compared by, for a reader

    def __init__(self, base: SearchSpace, num_classes: int) -> None:
        self.base, self.name = base, f"{base.name}+{self.head}"
        self.choices, self.image_size, self.in_chans = base.choices, base.image_size, base.in_chans
        self.mean, self.std, self.recipe, self.finetune = base.mean, base.std, base.recipe, base.finetune
        self.num_classes = num_classes
        self.cuts = cuts(base, base.largest)
        self.slots = tuple(self._slots())

    # ---- geometry

    @abstractmethod
    def _slots(self) -> Iterator[Slot]:
        """Those of the base up to its last map, and the head's."""

    def _place(self, cut: Cut) -> int:
        """Of the slot behind which the map is there in every network."""
        wanted = self.base.lower(self.base.largest)[cut.end]
        values = self.base.largest.values
        return next(
            i for i, slot in enumerate(self.base.slots) if slot.block(*(values[c] for c in slot.choices)) == wanted
        )

    def _maker(self, place: int) -> Slot:
        """The last slot up to that place whose block is always there: those that follow keep its output's shape."""
        slots = reversed(self.base.slots[: place + 1])
        return next(slot for slot in slots if all(block is not None for block in self.base._options(slot)))

    def _behind(self, cut: Cut, part: Any) -> Slot:
        """The slot of a part of the head on that map: `part(channels)` is its block."""
        maker = self._maker(self._place(cut))
        return Slot(maker.choices, partial(_on_map, maker, part))

    # ---- archs: those of the base

    def _of_base(self, arch: Arch) -> Arch:
        return Arch(self.base.name, arch.values)

    def with_head(self, arch: Arch) -> Arch:
        """The network of this space that is that one of the base, with the head."""
        return Arch(self.name, arch.values)

    def canonical(self, values: Sequence[int]) -> tuple[int, ...]:
        return self.base.canonical(values)

    def sample(self, rng: random.Random) -> Arch:
        return self.with_head(self.base.sample(rng))

    def size(self) -> int:
        return self.base.size()

    @property
    def smallest(self) -> Arch:
        return self.with_head(self.base.smallest)

    @property
    def published(self) -> Mapping[str, Arch]:
        return {name: self.with_head(arch) for name, arch in self.base.published.items()}

    # ---- models

    @abstractmethod
    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        """Images to raw outputs: it has a `backbone`, and all that `meaning` has."""

    @abstractmethod
    def meaning(self) -> nn.Module:
        """Of raw outputs: their `loss`, and what they `decode` to; `raw` makes them of what a chain of blocks gives."""

    def _backbone(self, arch: Arch) -> Any:
        from search_spaces.dense.backbone import Backbone

        return Backbone(self.base, self._of_base(arch))

    def prefixes(self, arch: Arch) -> tuple[str, ...]:
        """Blocks of the backbone by their numbers; parts of heads have their names in the network."""
        count = itertools.count()
        own = {block.name for block in self.base.lower(self._of_base(arch))}
        return tuple(f"backbone.blocks.{next(count)}" if b.name in own else b.name for b in self.lower(arch))

    def source(self, arch: Arch) -> str:
        raise UserError(f"networks of {self.name} are no models of timm; export them in another format")


def _on_map(maker: Slot, part: Any, *values: int) -> BlockSpec:
    block = maker.block(*values)
    assert block is not None
    channels, resolution = block.output_shape()[:2]
    made: BlockSpec = part(channels, resolution)
    return made


class DetectionSpace(HeadedSpace):
    """With SSDLite, as `search_spaces.dense.ssdlite` has it."""

    head, task, figure = "ssdlite", "detect", "AP"

    def _slots(self) -> Iterator[Slot]:
        planned = self._plan
        columns = [number * (5 + self.num_classes) for number in planned.boxes]
        tapped = {self._place(cut): i for i, cut in enumerate(self.cuts[-planned.num_maps :])}
        held = 0
        for place, slot in enumerate(self.base.slots[: max(tapped) + 1]):
            yield slot if not held else Slot(slot.choices, partial(_passing, slot, held))
            if place in tapped:
                i = tapped[place]
                args = (f"heads.{i}", planned.widths[i], columns[i], held)
                yield self._behind(self.cuts[i - planned.num_maps], partial(_predictor, *args))
                held += columns[i] * planned.sides[i] ** 2
        last = self.cuts[-1]
        for i in range(planned.num_maps, len(planned.sides)):
            number, after, side = i - planned.num_maps, planned.widths[i], planned.sides[i]
            is_pooled = planned.pooled and i == len(planned.sides) - 1
            make = partial(_further, f"extras.{number}", after, is_pooled, held)
            if number == 0:
                yield self._behind(last, make)
            else:
                before, resolution = planned.widths[i - 1], planned.sides[i - 1]
                yield Slot(ANY, partial(_always, make(before, resolution)))
            predictor = _predictor(f"heads.{i}", after, columns[i], held, after, side)
            yield Slot(ANY, partial(_always, predictor))
            held += columns[i] * side**2

    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        from search_spaces.dense.ssdlite import SSDLite

        return SSDLite(self._backbone(arch), self.num_classes)

    def meaning(self) -> nn.Module:
        from search_spaces.dense.ssdlite import Boxes

        return Boxes(self.image_size, self._plan, self.num_classes)

    @property
    def _plan(self) -> Plan:
        return plan(self.image_size, [cut.stride for cut in self.cuts])


def _passing(slot: Slot, held: int, *values: int) -> BlockSpec | None:
    block = slot.block(*values)
    return None if block is None else Passing.of(block, held)


def _predictor(name: str, width: int, columns: int, held: int, channels: int, resolution: int) -> BlockSpec:
    return Predictor(name, channels, resolution, width, columns, held)


def _further(name: str, after: int, is_pooled: bool, held: int, channels: int, resolution: int) -> BlockSpec:
    block = (Pooled if is_pooled else Extra)(name, channels, resolution, after)
    return Passing.of(block, held)


def _always(block: BlockSpec, *_: int) -> BlockSpec:
    return block


class SegmentationSpace(HeadedSpace):
    """With DeepLabv3, as `search_spaces.dense.deeplab` has it, on backbones of their own strides."""

    head, task, figure = "deeplabv3", "segment", "mIoU"

    def _slots(self) -> Iterator[Slot]:
        last = self.cuts[-1]
        yield from self.base.slots[: self._place(last) + 1]
        yield self._behind(last, partial(_pyramid, rates(last.stride)))
        resolution = -(-self.image_size // last.stride)
        classifier = PixelClassifier("classifier", self.num_classes, resolution, self.image_size)
        yield Slot(ANY, partial(_always, classifier))

    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        from search_spaces.dense.deeplab import DeepLabV3

        return DeepLabV3(self._backbone(arch), self.num_classes)

    def meaning(self) -> nn.Module:
        from search_spaces.dense.deeplab import Pixels

        return Pixels()


def _pyramid(dilations: tuple[int, ...], channels: int, resolution: int) -> BlockSpec:
    return Pyramid("aspp", channels, resolution, dilations)


HEADS: dict[str, type[HeadedSpace]] = {space.head: space for space in (DetectionSpace, SegmentationSpace)}


def head_of(space: str) -> type[HeadedSpace] | None:
    """The kind that the space of this name is; None of one whose networks classify."""
    return HEADS.get(space.partition("+")[2])
