"""EfficientFormerV2: depth, stage width, expansion of every FFN and presence of every attention.

Li et al., Rethinking Vision Transformers for MobileNet Size and Speed, ICCV 2023 (arXiv:2212.08059): Section 3.6
for the space and its search, supplement Table 8 for the published networks. Blocks and modules are timm's
(`timm.models.efficientformer_v2`), so every network of the space is a timm model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from math import comb
from typing import TYPE_CHECKING, Any

from search_spaces.base import Arch, Choice, SearchSpace, check_images
from search_spaces.block import BlockSpec, Slot
from search_spaces.efficientformerv2.blocks import Attention, Downsample, Ffn, Head, Stem

if TYPE_CHECKING:
    from torch import nn

EXPANSIONS = (1, 2, 3, 4)

# Supplement, Table 8: widths, depths, number of last blocks of stages 3 and 4 with attention, expansions.
PUBLISHED: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, tuple[str, ...]]] = {
    "s0": ((32, 48, 96, 176), (2, 2, 6, 4), 2, ("44", "44", "433344", "4334")),
    "s1": ((32, 48, 120, 224), (3, 3, 9, 6), 2, ("444", "444", "443333444", "443344")),
    "s2": ((32, 64, 144, 288), (4, 4, 12, 8), 4, ("4444", "4444", "443333334444", "44333344")),
    "l": ((40, 80, 192, 384), (5, 5, 15, 10), 6, ("44444", "44444", "444433333334444", "4443333444")),
}


class EfficientFormerV2Space(SearchSpace):
    """Elastic widths, presence of each block, presence of each attention (stages 3 and 4), expansion of each FFN.

    Args:
        widths: the options of each stage's width.
        depths: the most blocks of each stage.
        stem_stride: 4 as published, 2 for small images.
        layer_scale_init: of the residual branches in a fresh model.

    Raises:
        UserError: an image size whose third stage has no even resolution (its attention works at stride 2).
    """

    def __init__(
        self,
        name: str,
        widths: tuple[tuple[int, ...], ...],
        depths: tuple[int, ...],
        *,
        image_size: int,
        num_classes: int,
        stem_stride: int = 4,
        layer_scale_init: float = 1e-5,
    ) -> None:
        check_images(name, image_size, num_classes, multiple=8 * stem_stride)
        self.name = name
        self.image_size = image_size
        self.num_classes = num_classes
        self.depths = depths
        self.stem_stride = stem_stride
        self.layer_scale_init = layer_scale_init
        self.widths = widths
        slots = [(s, b) for s, depth in enumerate(depths) for b in range(depth)]
        self.choices = (
            *(Choice("width", (s,), options) for s, options in enumerate(widths)),
            *(Choice("present", slot, (0, 1)) for slot in slots),
            *(Choice("expansion", slot, EXPANSIONS) for slot in slots),
            *(Choice("attention", slot, (0, 1)) for slot in slots if slot[0] >= 2),
        )
        self._position = {(c.field, c.index): i for i, c in enumerate(self.choices)}
        self.slots = tuple(self._slots())

    def _resolution(self, stage: int) -> int:
        return self.image_size // self.stem_stride // 2**stage

    def _slots(self) -> Iterator[Slot]:
        at = self._position
        width = [at["width", (s,)] for s in range(len(self.depths))]

        def stem(w: int) -> BlockSpec:
            return Stem("stem", self.in_chans, w, self.image_size, self.stem_stride)

        def head(w: int) -> BlockSpec:
            return Head("", w, self.num_classes, self._resolution(3))

        def downsample(stage: int, before: int, after: int) -> BlockSpec:
            name = f"stages.{stage}.downsample"
            return Downsample(name, before, after, self._resolution(stage - 1), attention=stage == 3)

        def attention(stage: int, block: int, w: int, present: int, has_attention: int) -> BlockSpec | None:
            if not (present and has_attention):
                return None
            return Attention(f"stages.{stage}.blocks.{block}", w, self._resolution(stage), 2 if stage == 2 else 1)

        def ffn(stage: int, block: int, w: int, present: int, expansion: int) -> BlockSpec | None:
            return Ffn(f"stages.{stage}.blocks.{block}", w, expansion, self._resolution(stage)) if present else None

        yield Slot((width[0],), stem)
        for s, depth in enumerate(self.depths):
            if s > 0:
                yield Slot((width[s - 1], width[s]), partial(downsample, s))
            for b in range(depth):
                present = at["present", (s, b)]
                if s >= 2:
                    yield Slot((width[s], present, at["attention", (s, b)]), partial(attention, s, b))
                yield Slot((width[s], present, at["expansion", (s, b)]), partial(ffn, s, b))
        yield Slot((width[3],), head)

    # ---- archs

    def canonical(self, values: Sequence[int]) -> tuple[int, ...]:
        """An absent block has the smallest expansion and no attention; every stage keeps a block."""
        at, result = self._position, list(values)
        for s, depth in enumerate(self.depths):
            absent = [b for b in range(depth) if not values[at["present", (s, b)]]]
            if len(absent) == depth:
                raise ValueError(f"present.{s} has no block; set at least one to 1")
            for b in absent:
                result[at["expansion", (s, b)]] = EXPANSIONS[0]
                if s >= 2:
                    result[at["attention", (s, b)]] = 0
        return tuple(result)

    def sample(self, rng: random.Random) -> Arch:
        """Widths, expansions and attention uniform; each stage's depth uniform, its blocks then drawn at random."""
        values = [rng.choice(choice.options) for choice in self.choices]
        for s, depth in enumerate(self.depths):
            kept = rng.sample(range(depth), rng.randint(1, depth))
            for b in range(depth):
                values[self._position["present", (s, b)]] = int(b in kept)
        return Arch(self.name, self.canonical(values))

    def size(self) -> int:
        total = 1
        for s, (options, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            per_block = len(EXPANSIONS) * (2 if s >= 2 else 1)
            total *= len(options) * sum(comb(depth, d) * per_block**d for d in range(1, depth + 1))
        return total

    @property
    def smallest(self) -> Arch:
        values = [choice.options[0] for choice in self.choices]
        for s in range(len(self.depths)):
            values[self._position["present", (s, 0)]] = 1
        return Arch(self.name, self.canonical(values))

    @cached_property
    def published(self) -> dict[str, Arch]:
        """S0 to L, their blocks in the first slots of each stage; empty where the space cannot hold them."""
        if any(depth < d for depth, d in zip(self.depths, PUBLISHED["l"][1], strict=True)):
            return {}
        return {name: self._published(*row) for name, row in PUBLISHED.items()}

    def _published(self, width: Any, depth: Any, num_attention: int, expansion: Any) -> Arch:
        return self.arch(
            width=width,
            present=[[int(b < d) for b in range(n)] for n, d in zip(self.depths, depth, strict=True)],
            expansion=[
                [int(row[b]) if b < d else 1 for b in range(n)]
                for n, d, row in zip(self.depths, depth, expansion, strict=True)
            ],
            attention=[
                [int(d - num_attention <= b < d) for b in range(n)] if s >= 2 else []
                for s, (n, d) in enumerate(zip(self.depths, depth, strict=True))
            ],
        )

    # ---- models

    def module_names(self, arch: Arch) -> dict[str, str]:
        names = {block.name: block.name for block in self.lower(arch)}
        for stage, slots in enumerate(self._present(arch)):
            names.update({f"stages.{stage}.blocks.{b}": f"stages.{stage}.blocks.{i}" for i, b in enumerate(slots)})
        return names

    def _present(self, arch: Arch) -> list[list[int]]:
        at = self._position
        return [[b for b in range(depth) if arch.values[at["present", (s, b)]]] for s, depth in enumerate(self.depths)]

    def constructor(self, arch: Arch) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
        """Arguments of timm's `EfficientFormerV2`, and assignments to make on the model where these are not enough.

        The assignments, (dotted attribute, value), are empty for an arch that timm's constructor can express:
        attention in the last k blocks of stages 3 and 4 with one k for both, and a stem of stride 4.
        """
        at, slots = self._position, self._present(arch)
        attention = [[arch.values[at["attention", (s, b)]] for b in slots[s]] for s in (2, 3)]
        num_vit = max((len(a) - a.index(1) for a in attention if any(a)), default=0)
        arguments = {
            "depths": tuple(len(blocks) for blocks in slots),
            "embed_dims": tuple(arch.values[at["width", (s,)]] for s in range(len(self.depths))),
            "mlp_ratios": tuple(
                tuple(arch.values[at["expansion", (s, b)]] for b in blocks) for s, blocks in enumerate(slots)
            ),
            "num_vit": num_vit,
            # timm derives resolutions from a stem of stride 4
            "img_size": self.image_size * 4 // self.stem_stride,
            "num_classes": self.num_classes,
            "in_chans": self.in_chans,
            "layer_scale_init_value": self.layer_scale_init,
        }
        edits: list[tuple[str, Any]] = []
        if self.stem_stride == 2:
            edits.append(("stem.conv2.conv.stride", (1, 1)))
        for stage, present in zip((2, 3), attention, strict=True):
            for b in range(max(0, len(present) - num_vit), len(present)):
                if not present[b]:
                    edits += [(f"stages.{stage}.blocks.{b}.{part}", None) for part in ("token_mixer", "ls1")]
        return arguments, edits

    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        """timm's `EfficientFormerV2`; drop path rises with depth up to `drop_path_rate`."""
        from search_spaces.efficientformerv2 import modules

        arguments, edits = self.constructor(arch)
        return modules.network({**arguments, "drop_path_rate": drop_path_rate}, edits)

    def source(self, arch: Arch) -> str:
        arguments, edits = self.constructor(arch)
        call = "".join(f"        {name}={value!r},\n" for name, value in arguments.items())
        lines = [f"    model.{_indexed(path)} = {value!r}\n" for path, value in edits]
        return (
            "from timm.models.efficientformer_v2 import EfficientFormerV2\n\n\n"
            "def create_model() -> EfficientFormerV2:\n"
            f"    model = EfficientFormerV2(\n{call}    )\n{''.join(lines)}    return model\n"
        )


def _indexed(path: str) -> str:
    """'stages.2.blocks.0.ls1' as Python: 'stages[2].blocks[0].ls1'."""
    head, *rest = path.split(".")
    return head + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)


def efficientformerv2(image_size: int = 224, num_classes: int = 1000) -> EfficientFormerV2Space:
    """ImageNet scale. The largest network has L's widths and depths, expansion 4 and attention in every block."""
    return EfficientFormerV2Space(
        "efficientformerv2",
        widths=(
            (24, 32, 40),
            (32, 48, 64, 80),
            (72, 96, 120, 144, 168, 192),
            (128, 176, 224, 288, 336, 384),
        ),
        depths=(5, 5, 15, 10),
        image_size=image_size,
        num_classes=num_classes,
    )


def efficientformerv2_nano(image_size: int = 32, num_classes: int = 10) -> EfficientFormerV2Space:
    """The same family for images of 32 to 64 pixels, trained on a laptop's CPU."""
    return EfficientFormerV2Space(
        "efficientformerv2-nano",
        widths=((16, 24), (24, 32, 40), (32, 48, 64), (48, 64, 80, 96)),
        depths=(2, 2, 3, 3),
        image_size=image_size,
        num_classes=num_classes,
        stem_stride=2,
        layer_scale_init=0.1,
    )
