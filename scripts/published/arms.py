"""What the papers' tables compare: each row a network and the settings that it is trained with.

Under 128 px the small space of the family stands for the network of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces import Arch, SearchSpace, get_space, num_params
from search_spaces.efficientformerv2.space import EfficientFormerV2Space
from search_spaces.mobilevit.published import CONCATENATION, NONE

if TYPE_CHECKING:
    from torch import nn

LARGE = 128  # pixels from which on the networks are those of the paper


@dataclass(frozen=True)
class Arm:
    """A row of a table.

    Args:
        paper: top-1 on ImageNet as published, %.
        settings: of the training, beside its recipe.
        prepare: changes the fresh network before it is trained.
    """

    label: str
    paper: float
    space: SearchSpace
    arch: Arch
    settings: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[nn.Module], None] | None = None


@dataclass(frozen=True)
class Table:
    """
    Args:
        source: where it was published.
        arms: for images of a size and a number of classes.
        image_size: where none is given.
    """

    title: str
    source: str
    arms: Callable[[int, int], Iterator[Arm]]
    image_size: int = 32


def space_of(family: str, image_size: int, num_classes: int) -> SearchSpace:
    """The family's space for such images."""
    return get_space(family if image_size >= LARGE else f"{family}-nano", image_size, num_classes)


# ---- EfficientFormerV2

S2_WIDTHS, S2_DEPTHS = (32, 64, 144, 288), (4, 4, 12, 8)
NANO_WIDTHS, NANO_DEPTHS = (24, 32, 48, 80), (2, 2, 3, 3)


def expansions(image_size: int, num_classes: int) -> Iterator[Arm]:
    """One expansion for all blocks, all widths scaled so that networks have the parameters of that of expansion 4."""
    widths, depths = (S2_WIDTHS, S2_DEPTHS) if image_size >= LARGE else (NANO_WIDTHS, NANO_DEPTHS)

    def network(expansion: int, scale: float) -> tuple[SearchSpace, Arch]:
        scaled = tuple((8 * max(1, round(scale * width / 8)),) for width in widths)
        small: dict[str, Any] = {} if image_size >= LARGE else {"stem_stride": 2, "layer_scale_init": 0.1}
        space = EfficientFormerV2Space(
            "expansions", scaled, depths, image_size=image_size, num_classes=num_classes, **small
        )
        blocks = [[1] * depth for depth in depths]
        return space, space.arch(
            width=[options[0] for options in scaled],
            present=blocks,
            expansion=[[expansion] * depth for depth in depths],
            attention=[
                [int(s >= 2 and b >= depth // 2) for b in range(depth)] if s >= 2 else []
                for s, depth in enumerate(depths)
            ],
        )

    budget = num_params(*network(4, 1.0))
    for expansion, paper in ((4, 81.8), (2, 81.6), (1, 81.1)):
        candidates = [network(expansion, scale) for scale in np.arange(1.0, 2.5, 0.01).tolist()]
        space, arch = min(candidates, key=lambda found: abs(num_params(*found) - budget))
        yield Arm(f"expansion {expansion}", paper, space, arch)


def attention_bias(image_size: int, num_classes: int) -> Iterator[Arm]:
    """With the bias of attention for each distance, which says where tokens are, and without."""
    space = space_of("efficientformerv2", image_size, num_classes)
    arch = space.named.get("s1", space.largest)
    yield Arm("attention bias", 79.0, space, arch)
    yield Arm("without", 78.8, space, arch, prepare=without_bias)


def without_bias(network: nn.Module) -> None:
    """Holds every attention's bias at 0."""
    import torch

    found = [p for name, p in network.named_parameters() if name.endswith("attention_biases")]
    assert found, "a network without attention biases"
    for parameter in found:
        torch.nn.init.zeros_(parameter)
        parameter.requires_grad_(False)


# ---- MobileOne


def branches(image_size: int, num_classes: int) -> Iterator[Arm]:
    """With the branches that are merged when a network is deployed, and one convolution alone."""
    space = space_of("mobileone", image_size, num_classes)
    arch = space.named.get("s1", space.largest)
    yield Arm("re-parameterizable branches", 75.9, space, arch)
    yield Arm("without", 74.6, space, arch, prepare=without_branches)


def without_branches(network: nn.Module) -> None:
    """Leaves a convolution and its norm in every block, the norm as it is in a fresh network."""
    from timm.models.byobnet import MobileOneBlock
    from torch.nn import ModuleList, init

    for block in network.modules():
        if isinstance(block, MobileOneBlock):
            kept: Any = block.conv_kxk[0]
            block.conv_kxk, block.conv_scale, block.identity = ModuleList([kept]), None, None
            init.ones_(kept.bn.weight)


def training(image_size: int, num_classes: int) -> Iterator[Arm]:
    """What MobileOne's training adds, one after another."""
    space = space_of("mobileone", image_size, num_classes)
    arch = space.named.get("s2", space.largest)
    settings: dict[str, Any] = {"progressive": False, "weight_decay_end": None, "ema_decay": 0.0}
    yield Arm("baseline", 76.4, space, arch, settings)
    for label, paper, name in (
        ("+ progressive learning", 76.8, "progressive"),
        ("+ annealing weight decay", 77.3, "weight_decay_end"),
        ("+ EMA", 77.4, "ema_decay"),
    ):
        settings = {key: value for key, value in settings.items() if key != name}
        yield Arm(label, paper, space, arch, settings)


# ---- MobileViT


def patches(image_size: int, num_classes: int) -> Iterator[Arm]:
    """The side of patches in each stage with a transformer; the parameters are the same."""
    space = space_of("mobilevit", image_size, num_classes)
    arch = space.named.get("s", space.largest)
    options = [choice.options for choice in space.choices if choice.field == "patch"]
    paper = [(78.4, [2, 2, 2]), (77.6, [4, 4, 4]), (77.3, [8, 4, 2])]
    rows = [row for row in paper if all(side in sides for side, sides in zip(row[1], options, strict=False))]
    if image_size < LARGE or len(rows) < 2:  # of these maps the smallest and the largest that divide them
        rows = [(78.4, list(map(min, options))), (77.3, list(map(max, options)))]
    for top_1, sides in rows:
        yield Arm(f"patches {', '.join(map(str, sides))}", top_1, space, changed(space, arch, "patch", sides))


def fusion(image_size: int, num_classes: int) -> Iterator[Arm]:
    """The connection around the transformer, by which its output is fused with its input, and without."""
    space = space_of("mobilevit", image_size, num_classes)
    arch = space.named.get("s", space.largest)
    count = sum(choice.field == "fusion" for choice in space.choices)
    yield Arm("skip-connection", 78.4, space, changed(space, arch, "fusion", [CONCATENATION] * count))
    yield Arm("without", 77.9, space, changed(space, arch, "fusion", [NONE] * count))


def tiny(image_size: int, num_classes: int) -> Iterator[Arm]:
    """XS without some of its stages, and without the fusion of what is left."""
    space = get_space("mobilevit-tiny", image_size, num_classes)
    for label, paper, name in (
        ("XS", 57.29, "xs"),
        ("remove 5", 57.81, "remove-5"),
        ("remove 4, 5", 58.73, "remove-4-5"),
        ("remove 3, 4", 59.67, "remove-3-4"),
        ("remove 3, 4, no fusing (Tiny)", 60.11, "tiny"),
        ("remove 3, 4, use residual", 59.76, "remove-3-4-residual"),
    ):
        yield Arm(label, paper, space, space.named[name])


def changed(space: SearchSpace, arch: Arch, name: str, options: Sequence[int]) -> Arch:
    """The arch with these options of a field's choices, in order."""
    values, rest = list(arch.values), iter(options)
    for i, choice in enumerate(space.choices):
        if choice.field == name:
            values[i] = next(rest)
    return Arch(space.name, space.canonical(values))


TABLES = {
    "efficientformerv2-expansion": Table(
        "Expansion ratios at equal parameters", "EfficientFormerV2, supplement, Table 4 (S2's size)", expansions
    ),
    "efficientformerv2-attention-bias": Table(
        "Attention bias", "EfficientFormerV2, supplement, Table 3 (S1, 300 epochs)", attention_bias
    ),
    "mobileone-branches": Table("Re-parameterizable branches", "MobileOne, Table 7 (S1)", branches),
    "mobileone-training": Table("Train settings", "MobileOne, Table 5 (S2)", training),
    "mobilevit-patches": Table("Sides of patches", "MobileViT, Table 6 (S)", patches),
    "mobilevit-fusion": Table("Skip-connection of the MobileViT block", "MobileViT, Fig. 12 (S)", fusion),
    "mobilevit-tiny": Table("MobileViT-Tiny", "MobileViT on TinyImageNet, Table 3 (64 px, 200 epochs)", tiny, 64),
}
