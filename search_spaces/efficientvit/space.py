"""EfficientViT: depth, heads and their widths, keys, kernels, expansion of FFNs and presence of every attention.

Liu et al., EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention, CVPR 2023
(arXiv:2305.07027): Table 1 for the published networks. Modules are timm's (`timm.models.efficientvit_msra`), so every
network of the space is a timm model.

A block is a sandwich: a depthwise convolution and an FFN, the attention, a depthwise convolution and an FFN. A block
may be there without its attention, so the share of attention, which the paper sets by hand, is searched.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import product
from math import comb, prod
from typing import TYPE_CHECKING, Any

from search_spaces.base import Arch, Choice, SearchSpace, check_images
from search_spaces.block import BlockSpec, Slot
from search_spaces.efficientvit.blocks import UNSTRIDED, Attention, Depthwise, Ffn, Head, Merging, Stem

if TYPE_CHECKING:
    from torch import nn

STAGES = range(3)
KEY, EXPANSION = 16, 2  # of every published network

# Table 1: widths, depths and heads of each stage, kernels of each head.
PUBLISHED: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "m0": ((64, 128, 192), (1, 2, 3), (4, 4, 4), (5, 5, 5, 5)),
    "m1": ((128, 144, 192), (1, 2, 3), (2, 3, 3), (7, 5, 3, 3)),
    "m2": ((128, 192, 224), (1, 2, 3), (4, 3, 2), (7, 5, 3, 3)),
    "m3": ((128, 240, 320), (1, 2, 3), (4, 3, 4), (5, 5, 5, 5)),
    "m4": ((128, 256, 384), (1, 2, 3), (4, 4, 4), (7, 5, 3, 3)),
    "m5": ((192, 288, 384), (1, 3, 4), (3, 3, 4), (7, 5, 3, 3)),
}


class EfficientVitSpace(SearchSpace):
    """Elastic heads, widths of a head and keys of each stage, kernel of each head, presence of each block but a stage's
    first, presence of each attention, expansion of the FFNs of each block and of each downsampling.

    Args:
        heads: the options of each stage's heads.
        head_widths: the options of the channels of each stage's heads; heads times these is the stage's width.
        keys: the options of the channels of a head's queries and keys, powers of two.
        expansions: the options of the hidden channels of FFNs, as multiples of the width.
        kernels: for each head that a stage can have, the options of the depthwise convolution on its queries.
        depths: the most blocks of each stage.
        stem_stride: 16 as published, 8 or 4 for small images.
        window: height of the windows within which the attentions compute.

    Raises:
        UserError: an image size that is no multiple of twice the stem's stride, or a number of classes out of range.
    """

    recipe = "adamw-half"

    def __init__(
        self,
        name: str,
        heads: tuple[tuple[int, ...], ...],
        head_widths: tuple[tuple[int, ...], ...],
        depths: tuple[int, ...],
        *,
        keys: tuple[int, ...],
        expansions: tuple[int, ...] = (1, 2, 3),
        kernels: tuple[tuple[int, ...], ...],
        stem_stride: int = 16,
        window: int = 7,
        image_size: int,
        num_classes: int,
    ) -> None:
        assert len(kernels) == max(options[-1] for options in heads), "a kernel for each head"
        assert all(key & (key - 1) == 0 for key in keys), "timm computes with ratios of floating point"
        check_images(name, image_size, num_classes, multiple=2 * stem_stride)
        self.name = name
        self.image_size = image_size
        self.num_classes = num_classes
        self.heads, self.head_widths, self.keys, self.kernels = heads, head_widths, keys, kernels
        self.expansions, self.depths = expansions, depths
        self.stem_stride = stem_stride
        self.window = window
        blocks = [(s, b) for s, depth in enumerate(depths) for b in range(depth)]
        self.choices = (
            *(Choice("heads", (s,), options) for s, options in enumerate(heads)),
            *(Choice("head_width", (s,), options) for s, options in enumerate(head_widths)),
            *(Choice("key", (s,), keys) for s in STAGES),
            *(Choice("kernel", (h,), options) for h, options in enumerate(kernels)),
            *(Choice("present", (s, b), (0, 1) if b else (1,)) for s, b in blocks),
            *(Choice("attention", block, (0, 1)) for block in blocks),
            *(Choice("expansion", block, expansions) for block in blocks),
            *(Choice("down_expansion", (d,), expansions) for d in range(len(depths) - 1)),
        )
        self._position = {(c.field, c.index): i for i, c in enumerate(self.choices)}
        self.slots = tuple(self._slots())

    def _resolution(self, stage: int) -> int:
        size = self.image_size // self.stem_stride
        for _ in range(stage):
            size = (size + 1) // 2
        return size

    def _slots(self) -> Iterator[Slot]:
        at = self._position
        widths = [(at["heads", (s,)], at["head_width", (s,)]) for s in STAGES]

        def stem(heads: int, head_width: int) -> BlockSpec:
            return Stem("patch_embed", self.in_chans, heads * head_width, heads, self.image_size, self.stem_stride)

        def head(heads: int, head_width: int) -> BlockSpec:
            return Head("", heads * head_width, self.num_classes, self._resolution(STAGES[-1]), heads)

        yield Slot(widths[0], stem)
        for s, depth in enumerate(self.depths):
            if s:
                yield from self._downsampling(s, widths[s - 1], widths[s])
            for b in range(depth):
                yield from self._block(s, b, widths[s])
        yield Slot(widths[-1], head)

    def _downsampling(self, stage: int, before: tuple[int, int], after: tuple[int, int]) -> Iterator[Slot]:
        """Depthwise convolution and FFN at either side of the merging."""
        name, expansion = f"stages.{stage}.downsample", self._position["down_expansion", (stage - 1,)]
        resolution = self._resolution(stage - 1)

        def merging(in_heads: int, in_head_width: int, heads: int, head_width: int) -> BlockSpec:
            chs = in_heads * in_head_width, in_heads, heads * head_width, heads
            return Merging(f"{name}.patchmerge", *chs, resolution)

        def pair(part: str, resolution: int, width: tuple[int, int]) -> Iterator[Slot]:
            yield Slot(width, partial(_depthwise, f"{name}.{part}.0", resolution, False, 1))
            yield Slot((expansion, *width), partial(_ffn, f"{name}.{part}.1", resolution, 1))

        yield from pair("res1", resolution, before)
        yield Slot((*before, *after), merging)
        yield from pair("res2", self._resolution(stage), after)

    def _block(self, stage: int, block: int, width: tuple[int, int]) -> Iterator[Slot]:
        at, index = self._position, (stage, block)
        name, resolution = f"stages.{stage}.blocks.{block}", self._resolution(stage)
        present, expansion, key = at["present", index], at["expansion", index], at["key", (stage,)]
        kernels = [at["kernel", (h,)] for h in range(self.heads[stage][-1])]

        def attention(here: int, has: int, heads: int, head_width: int, key: int, *kernels: int) -> BlockSpec | None:
            if not (here and has):
                return None
            geometry = heads * head_width, heads, resolution, key, kernels[:heads], self.window
            return Attention(f"{name}.mixer", *geometry)

        def pair(i: int) -> Iterator[Slot]:
            yield Slot((present, *width), partial(_depthwise, f"{name}.dw{i}", resolution, True))
            yield Slot((present, expansion, *width), partial(_ffn, f"{name}.ffn{i}", resolution))

        yield from pair(0)
        yield Slot((present, at["attention", index], *width, key, *kernels), attention)
        yield from pair(1)

    # ---- archs

    def canonical(self, values: Sequence[int]) -> tuple[int, ...]:
        """An absent block has no attention and the smallest expansion; keys and kernels without a use are smallest."""
        at, result = self._position, list(values)
        for s, depth in enumerate(self.depths):
            for b in range(depth):
                if not values[at["present", (s, b)]]:
                    result[at["attention", (s, b)]] = 0
                    result[at["expansion", (s, b)]] = self.expansions[0]
        attending = [s for s in STAGES if any(result[at["attention", (s, b)]] for b in range(self.depths[s]))]
        for s in set(STAGES).difference(attending):
            result[at["key", (s,)]] = self.keys[0]
        for h in range(max((values[at["heads", (s,)]] for s in attending), default=0), len(self.kernels)):
            result[at["kernel", (h,)]] = self.kernels[h][0]
        return tuple(result)

    def sample(self, rng: random.Random) -> Arch:
        """All uniform but the presence of blocks: each stage's depth is, its blocks then drawn at random."""
        values = [rng.choice(choice.options) for choice in self.choices]
        for s, depth in enumerate(self.depths):
            kept = {0, *rng.sample(range(1, depth), rng.randint(0, depth - 1))}
            for b in range(depth):
                values[self._position["present", (s, b)]] = int(b in kept)
        return Arch(self.name, self.canonical(values))

    def size(self) -> int:
        """Stages have the kernels in common: as many heads as any attention has."""
        total = 0
        for heads in product(*self.heads):
            for attending in product((False, True), repeat=len(self.depths)):
                used = max((h for h, attends in zip(heads, attending, strict=True) if attends), default=0)
                blocks = prod(map(self._num_stages, STAGES, attending))
                total += blocks * prod(len(options) for options in self.kernels[:used])
        return total * len(self.expansions) ** (len(self.depths) - 1)

    def _num_stages(self, stage: int, attending: bool) -> int:
        """Different stages of given heads and kernels: those with an attention, or those without any."""

        def num_blocks(each: int) -> int:
            later = self.depths[stage] - 1
            return each * sum(comb(later, d) * each**d for d in range(later + 1))

        without = num_blocks(len(self.expansions))
        blocks = (num_blocks(2 * len(self.expansions)) - without) * len(self.keys) if attending else without
        return blocks * len(self.head_widths[stage])

    @cached_property
    def published(self) -> dict[str, Arch]:
        """M0 to M5, their blocks in the first places of each stage; empty where the space cannot hold them."""
        if any(depth < d for depth, d in zip(self.depths, PUBLISHED["m5"][1], strict=True)):
            return {}
        return {name: self._published(*row) for name, row in PUBLISHED.items()}

    def _published(self, widths: Any, depths: Any, heads: Any, kernels: Sequence[int]) -> Arch:
        blocks = [[int(b < d) for b in range(n)] for n, d in zip(self.depths, depths, strict=True)]
        return self.arch(
            heads=heads,
            head_width=[width // h for width, h in zip(widths, heads, strict=True)],
            key=[KEY for _ in STAGES],
            kernel=kernels,
            present=blocks,
            attention=blocks,
            expansion=[[EXPANSION if here else self.expansions[0] for here in stage] for stage in blocks],
            down_expansion=[EXPANSION for _ in range(len(self.depths) - 1)],
        )

    # ---- models

    def module_names(self, arch: Arch) -> dict[str, str]:
        names = {block.name: block.name for block in self.lower(arch)}
        for s, kept in enumerate(self._present(arch)):
            for i, b in enumerate(kept):
                parts = ("dw0", "ffn0", "mixer", "dw1", "ffn1")
                names |= {f"stages.{s}.blocks.{b}.{part}": f"stages.{s}.blocks.{i}.{part}" for part in parts}
        return names

    def _present(self, arch: Arch) -> list[list[int]]:
        at = self._position
        return [[b for b in range(depth) if arch.values[at["present", (s, b)]]] for s, depth in enumerate(self.depths)]

    def constructor(self, arch: Arch) -> tuple[dict[str, Any], list[tuple[str, str, tuple[int, ...]]]]:
        """Arguments of timm's `EfficientVitMsra`, and assignments to make on the model where these are not enough.

        Each assignment is (dotted attribute, what makes its value, numbers to make it of): a `ConvMlp` of other than
        twice the channels, an `Identity` for an attention that is absent, the stride of a stem's convolution as such.
        """
        at, value = self._position, arch.values
        kept = self._present(arch)
        heads = tuple(value[at["heads", (s,)]] for s in STAGES)
        arguments = {
            "img_size": self.image_size * 16 // self.stem_stride,  # timm derives resolutions from a stem of stride 16
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
            "embed_dim": tuple(h * value[at["head_width", (s,)]] for s, h in zip(STAGES, heads, strict=True)),
            "key_dim": tuple(value[at["key", (s,)]] for s in STAGES),
            "depth": tuple(map(len, kept)),
            "num_heads": heads,
            "window_size": tuple(self.window for _ in STAGES),
            "kernels": tuple(value[at["kernel", (h,)]] for h in range(len(self.kernels))),
        }
        return arguments, list(self._edits(arch))

    def _edits(self, arch: Arch) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        at, value = self._position, arch.values
        for name in UNSTRIDED[self.stem_stride]:
            yield f"patch_embed.{name}.conv.stride", "", (1, 1)
        names = self.module_names(arch)
        for block in self.lower(arch):
            if isinstance(block, Ffn) and block.expansion != EXPANSION:
                yield f"{names[block.name]}.m", "ConvMlp", (block.width, block.width * block.expansion)
        for s, kept in enumerate(self._present(arch)):
            for i, b in enumerate(kept):
                if not value[at["attention", (s, b)]]:
                    yield f"stages.{s}.blocks.{i}.mixer", "Identity", ()

    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        """timm's `EfficientVitMsra`; drop path rises with depth up to `drop_path_rate`."""
        from search_spaces.efficientvit import modules

        return modules.network(*self.constructor(arch), drop_path_rate)

    def source(self, arch: Arch) -> str:
        arguments, edits = self.constructor(arch)
        call = "".join(f"        {name}={value!r},\n" for name, value in arguments.items())
        lines = ""
        for path, maker, numbers in edits:
            owner, _, attribute = path.rpartition(".")
            lines += f'    model.get_submodule("{owner}").{attribute} = {maker}{numbers!r}\n'
        return (
            "from timm.models.efficientvit_msra import ConvMlp, EfficientVitMsra\n"
            "from torch.nn import Identity\n\n\n"
            "def create_model() -> EfficientVitMsra:\n"
            f"    model = EfficientVitMsra(\n{call}    )\n{lines}    return model\n"
        )


def _depthwise(name: str, resolution: int, silent: bool, present: int, heads: int, head_width: int) -> Depthwise | None:
    return Depthwise(name, heads * head_width, heads, resolution, silent) if present else None


def _ffn(name: str, resolution: int, present: int, expansion: int, heads: int, head_width: int) -> Ffn | None:
    return Ffn(name, heads * head_width, heads, resolution, expansion) if present else None


def efficientvit(image_size: int = 224, num_classes: int = 1000) -> EfficientVitSpace:
    """ImageNet scale. The largest network has M5's depths, at least its widths, and attention in every block."""
    return EfficientVitSpace(
        "efficientvit",
        heads=((2, 3, 4), (3, 4), (2, 3, 4)),
        head_widths=((16, 32, 64), (32, 48, 64, 80, 96), (48, 64, 80, 96, 112)),
        depths=(1, 3, 4),
        keys=(8, 16),
        kernels=((5, 7), (3, 5), (3, 5), (3, 5)),
        image_size=image_size,
        num_classes=num_classes,
    )


def efficientvit_nano(image_size: int = 32, num_classes: int = 10) -> EfficientVitSpace:
    """The same family for images of 32 to 64 pixels, trained on a laptop's CPU."""
    return EfficientVitSpace(
        "efficientvit-nano",
        heads=((2, 3), (2, 3), (2, 3)),
        head_widths=((16, 24), (24, 32), (32, 40)),
        depths=(2, 3, 3),
        keys=(4, 8),
        expansions=(1, 2),
        kernels=((3, 5), (3, 5), (3,)),
        stem_stride=4,
        window=8,
        image_size=image_size,
        num_classes=num_classes,
    )
