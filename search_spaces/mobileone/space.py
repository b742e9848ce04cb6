"""MobileOne: depth, stage width, squeeze-and-excitation of the last two stages, and training's branches.

Vasu et al., MobileOne: An Improved One Millisecond Mobile Backbone, CVPR 2023 (arXiv:2206.04040): Table 2 for the
published networks. Modules are timm's (`timm.models.byobnet`), so every network of the space is a timm model.

A pair is a depthwise 3x3 and a pointwise block. The first pair of a stage is always there: it changes size and width.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from math import comb
from typing import TYPE_CHECKING, Any

from search_spaces.base import Arch, Choice, SearchSpace, check_images
from search_spaces.block import BlockSpec, HeadSpec, Slot
from search_spaces.mobileone.blocks import Block

if TYPE_CHECKING:
    from torch import nn

STEM_WIDTH = 64  # at most
SE_STAGES = (2, 3)

# Table 2: widths, branches, last pairs of each stage with squeeze-and-excitation.
DEPTHS = (2, 8, 10, 1)
PUBLISHED: dict[str, tuple[tuple[int, ...], int, tuple[int, ...]]] = {
    "s0": ((48, 128, 256, 1024), 4, (0, 0, 0, 0)),
    "s1": ((96, 192, 512, 1280), 1, (0, 0, 0, 0)),
    "s2": ((96, 256, 640, 2048), 1, (0, 0, 0, 0)),
    "s3": ((128, 320, 768, 2048), 1, (0, 0, 0, 0)),
    "s4": ((192, 448, 896, 2048), 1, (0, 0, 5, 1)),
}


class MobileOneSpace(SearchSpace):
    """Elastic widths, presence of each pair but a stage's first, squeeze-and-excitation, number of branches.

    Branches are merged when a network is deployed, so no cost depends on their number, and no search shrinks it.

    Args:
        widths: the options of each stage's width, multiples of 8.
        depths: the most pairs of each stage.
        branches: the options of the number of branches.
        first_stride: of the first stage: 2 as published, 1 for small images.

    Raises:
        UserError: an image size that is no multiple of the network's stride, or a number of classes out of range.
    """

    recipe = "progressive"
    any_size = True

    def __init__(
        self,
        name: str,
        widths: tuple[tuple[int, ...], ...],
        depths: tuple[int, ...],
        *,
        branches: tuple[int, ...],
        first_stride: int = 2,
        image_size: int,
        num_classes: int,
    ) -> None:
        check_images(name, image_size, num_classes, multiple=16 * first_stride)
        self.name = name
        self.image_size = image_size
        self.num_classes = num_classes
        self.widths = widths
        self.depths = depths
        self.strides = (first_stride, 2, 2, 2)
        pairs = [(s, b) for s, depth in enumerate(depths) for b in range(depth)]
        self.choices = (
            *(Choice("width", (s,), options) for s, options in enumerate(widths)),
            *(Choice("present", (s, b), (0, 1) if b else (1,)) for s, b in pairs),
            *(Choice("se", (s, b), (0, 1)) for s, b in pairs if s in SE_STAGES),
            Choice("branches", (0,), branches),
        )
        self._position = {(c.field, c.index): i for i, c in enumerate(self.choices)}
        self.slots = tuple(self._slots())

    def _resolution(self, stage: int) -> int:
        """Of the stage's output; of the stem's for -1."""
        size = self.image_size // 2
        for stride in self.strides[: stage + 1]:
            size //= stride
        return size

    def _slots(self) -> Iterator[Slot]:
        at = self._position
        branches = at["branches", (0,)]

        def stem(w: int) -> BlockSpec:
            return Block("stem", self.in_chans, _stem_width(w), 3, 2, False, False, self.image_size, 1)

        def head(w: int) -> BlockSpec:
            return HeadSpec("head", w, self.num_classes, self._resolution(3))

        def first(s: int, depthwise: bool, before: int, w: int, k: int, se: int = 0) -> BlockSpec:
            c = before if s else _stem_width(before)
            if depthwise:
                return Block(f"stages.{s}.0", c, c, 3, self.strides[s], True, bool(se), self._resolution(s - 1), k)
            return Block(f"stages.{s}.1", c, w, 1, 1, False, bool(se), self._resolution(s), k)

        def later(s: int, b: int, depthwise: bool, w: int, present: int, k: int, se: int = 0) -> BlockSpec | None:
            if not present:
                return None
            name, kernel = f"stages.{s}.{2 * b + (not depthwise)}", 3 if depthwise else 1
            return Block(name, w, w, kernel, 1, depthwise, bool(se), self._resolution(s), k)

        yield Slot((at["width", (0,)],), stem)
        for s, depth in enumerate(self.depths):
            w, before = at["width", (s,)], at["width", (max(s - 1, 0),)]
            for b in range(depth):
                rest = (branches, at["se", (s, b)]) if s in SE_STAGES else (branches,)
                for depthwise in (True, False):
                    if b == 0:
                        yield Slot((before, w, *rest), partial(first, s, depthwise))
                    else:
                        yield Slot((w, at["present", (s, b)], *rest), partial(later, s, b, depthwise))
        yield Slot((at["width", (3,)],), head)

    # ---- archs

    def canonical(self, values: Sequence[int]) -> tuple[int, ...]:
        """An absent pair has no squeeze-and-excitation."""
        at, result = self._position, list(values)
        for s in SE_STAGES:
            for b in range(self.depths[s]):
                if not values[at["present", (s, b)]]:
                    result[at["se", (s, b)]] = 0
        return tuple(result)

    def sample(self, rng: random.Random) -> Arch:
        """Widths, squeeze-and-excitation and branches uniform; each stage's depth uniform, its pairs at random."""
        values = [rng.choice(choice.options) for choice in self.choices]
        for s, depth in enumerate(self.depths):
            kept = {0, *rng.sample(range(1, depth), rng.randint(0, depth - 1))}
            for b in range(depth):
                values[self._position["present", (s, b)]] = int(b in kept)
        return Arch(self.name, self.canonical(values))

    def size(self) -> int:
        total = len(self.choices[self._position["branches", (0,)]].options)
        for s, (options, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            each = 2 if s in SE_STAGES else 1
            total *= len(options) * each * sum(comb(depth - 1, d) * each**d for d in range(depth))
        return total

    @cached_property
    def published(self) -> dict[str, Arch]:
        """S0 to S4; empty where the space cannot hold them."""
        if any(depth < d for depth, d in zip(self.depths, DEPTHS, strict=True)):
            return {}
        return {name: self._published(*row) for name, row in PUBLISHED.items()}

    def _published(self, width: Any, branches: int, num_se: Sequence[int]) -> Arch:
        return self.arch(
            width=width,
            present=[[int(b < d) for b in range(n)] for n, d in zip(self.depths, DEPTHS, strict=True)],
            se=[
                [int(d - num_se[s] <= b < d) for b in range(n)] if s in SE_STAGES else []
                for s, (n, d) in enumerate(zip(self.depths, DEPTHS, strict=True))
            ],
            branches=[branches],
        )

    # ---- models

    def module_names(self, arch: Arch) -> dict[str, str]:
        names = {"stem": "stem", "head": "head"}
        for s, kept in enumerate(self._present(arch)):
            for i, b in enumerate(kept):
                names |= {f"stages.{s}.{2 * b + part}": f"stages.{s}.{2 * i + part}" for part in (0, 1)}
        return names

    def _present(self, arch: Arch) -> list[list[int]]:
        at = self._position
        return [[b for b in range(depth) if arch.values[at["present", (s, b)]]] for s, depth in enumerate(self.depths)]

    def constructor(self, arch: Arch) -> tuple[list[list[dict[str, Any]]], int, dict[str, Any]]:
        """Arguments of timm's `ByoBlockCfg` for each block of each stage, the stem's width, those of `ByobNet`."""
        at, value = self._position, arch.values
        branches = value[at["branches", (0,)]]
        stem = before = _stem_width(value[at["width", (0,)]])
        stages = []
        for s, kept in enumerate(self._present(arch)):
            stage: list[dict[str, Any]] = []
            width = value[at["width", (s,)]]
            for b in kept:
                se = {"attn_layer": "se"} if s in SE_STAGES and value[at["se", (s, b)]] else {}
                for c, gs, kernel in ((before, 1, 3), (width, 0, 1)):
                    own = {"kernel_size": kernel, "num_conv_branches": branches}
                    stride = 1 if stage else self.strides[s]
                    stage.append({"type": "one", "d": 1, "c": c, "s": stride, "gs": gs, "block_kwargs": own, **se})
                before = width
            stages.append(stage)
        return stages, stem, {"num_classes": self.num_classes, "in_chans": self.in_chans}

    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        """timm's `ByobNet` as it is trained, with all branches; drop path rises with depth up to `drop_path_rate`."""
        from search_spaces.mobileone import modules

        stages, stem, arguments = self.constructor(arch)
        return modules.network(stages, stem, {**arguments, "drop_path_rate": drop_path_rate})

    def source(self, arch: Arch) -> str:
        stages, stem, arguments = self.constructor(arch)
        rows = "".join(
            "        (\n"
            + "".join(f"            ByoBlockCfg({', '.join(f'{k}={v!r}' for k, v in b.items())}),\n" for b in stage)
            + "        ),\n"
            for stage in stages
        )
        call = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        return (
            "from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg\n\n\n"
            "def create_model() -> ByobNet:\n"
            f"    blocks = (\n{rows}    )\n"
            f'    return ByobNet(ByoModelCfg(blocks=blocks, stem_type="one", stem_chs={stem}), {call})\n'
        )


def _stem_width(first: int) -> int:
    """Of a network whose first stage has this width."""
    return min(STEM_WIDTH, first)


def mobileone(image_size: int = 224, num_classes: int = 1000) -> MobileOneSpace:
    """ImageNet scale. The largest network has S4's widths and depths, and squeeze-and-excitation in stages 3 and 4."""
    return MobileOneSpace(
        "mobileone",
        widths=((48, 64, 96, 128, 192), (128, 192, 256, 320, 448), (256, 512, 640, 768, 896), (1024, 1280, 2048)),
        depths=DEPTHS,
        branches=(1, 4),
        image_size=image_size,
        num_classes=num_classes,
    )


def mobileone_nano(image_size: int = 32, num_classes: int = 10) -> MobileOneSpace:
    """The same family for images of 32 to 64 pixels, trained on a laptop's CPU."""
    return MobileOneSpace(
        "mobileone-nano",
        widths=((24, 32, 48), (48, 64, 96), (96, 128, 192), (192, 256, 384)),
        depths=(2, 4, 6, 2),
        branches=(1,),
        first_stride=1,
        image_size=image_size,
        num_classes=num_classes,
    )
