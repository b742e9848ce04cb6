"""MobileViT: widths, blocks, expansions, and of each transformer its width, layers, heads, FFNs, patches and fusion.

Mehta and Rastegari, MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer, ICLR 2022
(arXiv:2110.02178): Table 4 for the published networks. Faath and Uppuluri, MobileViT on TinyImageNet (2022): Table 3
for those without some stages. Modules are timm's (`timm.models.mobilevit`), so every network of the space is a timm
model.

A stage is inverted residuals, the first of which changes size and width, and maybe a MobileViT block. Without layers,
its transformer leaves nothing of that block.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from math import comb, prod
from typing import TYPE_CHECKING, Any

from search_spaces.base import Arch, Choice, SearchSpace, check_images
from search_spaces.block import BlockSpec
from search_spaces.mobilevit.blocks import InvertedResidual
from search_spaces.mobilevit.published import (
    CONCATENATION,
    FUSIONS,
    HEADS,
    LAYERS,
    NETWORK,
    NONE,
    PATCH,
    PUBLISHED,
    RATIO,
    REMOVED,
    RESIDUAL,
    STEM_WIDTH,
    TINY,
    VARIED,
)
from search_spaces.mobilevit.slots import Slots, Stage
from search_spaces.mobilevit.transformer import Attention, Ffn, Fusion, Local

if TYPE_CHECKING:
    from torch import nn


class MobileViTSpace(SearchSpace):
    """Elastic widths, presence and expansion of inverted residuals, and everything of the transformers.

    Args:
        features: options of the width before the classifier.
        patches: sides of patches, the largest first. Options are those that divide the map, into four or more; where
            none does, the last, and the map is resized to whole patches.

    Raises:
        UserError: an image size that is no multiple of the network's stride, or a number of classes out of range.
    """

    recipe = "adamw-basic"
    any_size = True
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(
        self,
        name: str,
        stages: Sequence[Stage],
        *,
        features: tuple[int, ...],
        expansions: tuple[int, ...] = (2, 4),
        patches: tuple[int, ...] = (8, 4, 2),
        image_size: int,
        num_classes: int,
    ) -> None:
        check_images(name, image_size, num_classes, multiple=2 * prod(stage.stride for stage in stages))
        self.name = name
        self.image_size = image_size
        self.num_classes = num_classes
        self.stages = tuple(stages)
        self._slots = Slots(self.stages, image_size, self.in_chans, num_classes)
        vits = self._slots.vits
        blocks = [(s, b) for s, stage in enumerate(stages) for b in range(stage.depth)]
        layers = [(i, n) for i, s in enumerate(vits) for n in range(stages[s].layers)]
        self.choices = (
            *(Choice("width", (s,), stage.widths) for s, stage in enumerate(stages)),
            *(Choice("present", (s, b), (0, 1) if b or stages[s].may_lack else (1,)) for s, b in blocks),
            *(Choice("expansion", block, expansions) for block in blocks),
            *(Choice("dim", (i,), stages[s].dims) for i, s in enumerate(vits)),
            *(Choice("layer", layer, (0, 1)) for layer in layers),
            *(Choice("heads", layer, (2, HEADS)) for layer in layers),
            *(Choice("ratio", layer, (1, RATIO)) for layer in layers),
            *(Choice("patch", (i,), self._patches(s, patches)) for i, s in enumerate(vits)),
            *(Choice("fusion", (i,), (NONE, RESIDUAL, CONCATENATION)) for i, _ in enumerate(vits)),
            Choice("features", (0,), features),
        )
        self._position = {choice.name: i for i, choice in enumerate(self.choices)}
        self.slots = tuple(self._slots.make(self._position))

    def _patches(self, stage: int, sides: tuple[int, ...]) -> tuple[int, ...]:
        size = self._slots.resolution({}, stage)
        return tuple(p for p in sides if size % p == 0 and size > p) or sides[-1:]

    # ---- archs

    def canonical(self, values: Sequence[int]) -> tuple[int, ...]:
        """All of what is absent has its smallest option; without layers, so have the transformer's other choices."""
        v = {choice.name: value for choice, value in zip(self.choices, values, strict=True)}

        def least(*names: str) -> None:
            v.update({name: self.choices[self._position[name]].options[0] for name in names})

        for s, stage in enumerate(self.stages):
            if not v[f"present.{s}.0"]:
                least(f"width.{s}", *(f"present.{s}.{b}" for b in range(stage.depth)))
            least(*(f"expansion.{s}.{b}" for b in range(stage.depth) if not v[f"present.{s}.{b}"]))
        for i, s in enumerate(self._slots.vits):
            layers = self._slots.layers[i]
            if not v[f"present.{s}.0"]:
                least(*layers)
            for n, layer in enumerate(layers):
                if not v[layer]:
                    least(f"heads.{i}.{n}", f"ratio.{i}.{n}")
            if not any(v[layer] for layer in layers):
                least(f"dim.{i}", f"patch.{i}", f"fusion.{i}")
        return tuple(v.values())

    def sample(self, rng: random.Random) -> Arch:
        """Uniform; of inverted residuals and layers first how many there are, then which."""
        values = [rng.choice(choice.options) for choice in self.choices]
        for s, stage in enumerate(self.stages):
            kept = {0, *rng.sample(range(1, stage.depth), rng.randint(0, stage.depth - 1))}
            for b in range(1, stage.depth):
                values[self._position[f"present.{s}.{b}"]] = int(b in kept)
        for i, _ in enumerate(self._slots.vits):
            layers = self._slots.layers[i]
            kept = {*rng.sample(range(len(layers)), rng.randint(0, len(layers)))}
            for n, layer in enumerate(layers):
                values[self._position[layer]] = int(n in kept)
        return Arch(self.name, self.canonical(values))

    def size(self) -> int:
        return self._num_options("features.0") * prod(self._stage_size(s) for s in range(len(self.stages)))

    def _num_options(self, *names: str) -> int:
        return prod(len(self.choices[self._position[name]].options) for name in names)

    def _stage_size(self, s: int) -> int:
        stage = self.stages[s]
        total = self._num_options(f"width.{s}", f"expansion.{s}.0")
        total *= prod(1 + self._num_options(f"expansion.{s}.{b}") for b in range(1, stage.depth))
        if stage.dims:
            i = self._slots.vits.index(s)
            each = self._num_options(f"heads.{i}.0", f"ratio.{i}.0")
            layers = sum(comb(stage.layers, d) * each**d for d in range(1, stage.layers + 1))
            total *= 1 + layers * self._num_options(f"dim.{i}", f"patch.{i}", f"fusion.{i}")
        return total + stage.may_lack

    @cached_property
    def published(self) -> dict[str, Arch]:
        """XXS, XS and S, and of MobileViT-Tiny's paper XS without some stages; those that the space can hold."""
        if [stage.layers for stage in self.stages] != [0, 0, *LAYERS]:
            return {}
        archs = {
            name: self._published(*row)
            for name, row in PUBLISHED.items()
            if all(w in stage.widths for w, stage in zip(row[0], self.stages, strict=True))
        }
        if not all(stage.may_lack for stage in self.stages[2:]):
            return archs
        for removed, stages in REMOVED.items():
            for fusion, value in FUSIONS.items():
                archs[f"{removed}{fusion}"] = self._published(*PUBLISHED["xs"], removed=stages, fusion=value)
        archs["tiny"] = archs.pop(TINY)
        return archs

    def _published(
        self,
        width: Sequence[int],
        dim: Sequence[int],
        expansion: int,
        features: int,
        removed: Sequence[int] = (),
        fusion: int = CONCATENATION,
    ) -> Arch:
        return self.arch(
            width=width,
            present=[[int(s not in removed)] * stage.depth for s, stage in enumerate(self.stages)],
            expansion=[[expansion] * stage.depth for stage in self.stages],
            dim=dim,
            layer=[[1] * count for count in LAYERS],
            heads=[[HEADS] * count for count in LAYERS],
            ratio=[[RATIO] * count for count in LAYERS],
            patch=[PATCH] * len(dim),
            fusion=[fusion] * len(dim),
            features=[features],
        )

    # ---- models

    def module_names(self, arch: Arch) -> dict[str, str]:
        """Numbers in names become places among what is present."""
        names, siblings = {}, dict[str, dict[str, int]]()
        for block in self.lower(arch):
            parts = block.name.split(".")
            for i, part in enumerate(parts):
                if part.isdigit():  # parts before it are renamed: unique, too
                    places = siblings.setdefault(".".join(parts[:i]), {})
                    parts[i] = str(places.setdefault(part, len(places)))
            names[block.name] = ".".join(parts)
        return names

    def constructor(self, arch: Arch) -> tuple[list[list[dict[str, Any]]], int, dict[str, Any]]:
        """Arguments of timm's `ByoBlockCfg` for each block of each stage, the last width, those of `ByobNet`.

        A block that timm's own cannot express is of the type `VARIED`: `search_spaces.mobilevit.varied`.
        """
        _, *blocks, final, _ = self.lower(arch)
        stages = [
            list(_configs(list(stage))) for _, stage in groupby(blocks, key=lambda block: block.name.split(".")[1])
        ]
        return stages, final.output_shape()[0], {"num_classes": self.num_classes, "in_chans": self.in_chans}

    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        """timm's `ByobNet`; drop path rises with depth up to `drop_path_rate`."""
        from search_spaces.mobilevit import modules

        stages, features, arguments = self.constructor(arch)
        return modules.network(stages, features, {**arguments, "drop_path_rate": drop_path_rate})

    def source(self, arch: Arch) -> str:
        stages, features, arguments = self.constructor(arch)
        is_varied = any(block["type"] == VARIED for stage in stages for block in stage)
        rows = "".join(f"        (\n{''.join(map(_row, stage))}        ),\n" for stage in stages)
        config = {"stem_chs": STEM_WIDTH, **NETWORK, "num_features": features}
        return (
            f"{_varied_source() if is_varied else ''}"
            "from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg\n\n\n"
            "def create_model() -> ByobNet:\n"
            f"    blocks = (\n{rows}    )\n"
            f"    config = ByoModelCfg(blocks=blocks, {_call(config)})\n"
            f"    return ByobNet(config, {_call(arguments)})\n"
        )


def _configs(stage: Sequence[BlockSpec]) -> Iterator[dict[str, Any]]:
    """Arguments of timm's `ByoBlockCfg` for the blocks of a stage."""
    own: dict[str, Any] = {"bottle_in": True, "linear_out": True}
    for block in stage:
        if isinstance(block, InvertedResidual):
            shape = {"c": block.out_chs, "s": block.stride, "gs": 1, "br": float(block.expansion)}
            yield {"type": "bottle", "d": 1, **shape, "block_kwargs": own}
        elif isinstance(block, Local):
            arguments = {"transformer_dim": block.dim, "patch_size": block.patch}
            kind, further = _transformer(stage)
            yield {"type": kind, "d": 1, "c": block.width, "s": 1, "block_kwargs": {**arguments, **further}}


def _transformer(stage: Sequence[BlockSpec]) -> tuple[str, dict[str, Any]]:
    """Type of its block, and the arguments by which the types differ."""
    heads = tuple(block.heads for block in stage if isinstance(block, Attention))
    ratios = tuple(block.ratio for block in stage if isinstance(block, Ffn))
    fusion = next((block.is_residual for block in stage if isinstance(block, Fusion)), None)
    own = {"no_fusion": fusion is not False}
    if set(heads) == {HEADS} and len(set(ratios)) == 1 and not fusion:
        return "mobilevit", {"transformer_depth": len(heads), "mlp_ratio": float(ratios[0]), **own}
    return VARIED, {"heads": heads, "ratios": ratios, "residual": bool(fusion), **own}


def _call(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _row(block: Mapping[str, Any]) -> str:
    call = _call(block).replace(repr(VARIED), "partial(VariedBlock)")
    return f"            ByoBlockCfg({call}),\n"


def _varied_source() -> str:
    """Source of the block with its imports, and what is needed to name it."""
    from search_spaces.mobilevit import varied

    _, _, code = inspect.getsource(varied).partition('"""\n\n')
    return f"from functools import partial\n{code}\n\n"


def _published_stages(*names: str, may_lack: bool = False) -> tuple[tuple[Stage, ...], tuple[int, ...]]:
    """Stages and features that these networks of Table 4 have."""
    widths, dims, _, features = zip(*(PUBLISHED[name] for name in names), strict=True)
    options = [tuple(sorted(set(column))) for column in zip(*widths, strict=True)]
    stages = [Stage(options[0], stride=1), Stage(options[1], depth=3)]
    for width, dim, layers in zip(options[2:], zip(*dims, strict=True), LAYERS, strict=True):
        stages.append(Stage(width, dims=dim, layers=layers, may_lack=may_lack))
    return tuple(stages), features


def mobilevit(image_size: int = 256, num_classes: int = 1000) -> MobileViTSpace:
    """ImageNet scale. The largest network is S."""
    stages, features = _published_stages("xxs", "xs", "s")
    return MobileViTSpace("mobilevit", stages, features=features, image_size=image_size, num_classes=num_classes)


def mobilevit_tiny(image_size: int = 64, num_classes: int = 200) -> MobileViTSpace:
    """TinyImageNet scale: the networks between XXS and XS, and those without some of the stages with transformers."""
    stages, features = _published_stages("xxs", "xs", may_lack=True)
    return MobileViTSpace(
        "mobilevit-tiny", stages, features=features, patches=(PATCH,), image_size=image_size, num_classes=num_classes
    )


def mobilevit_nano(image_size: int = 32, num_classes: int = 10) -> MobileViTSpace:
    """The same family for images of 32 to 64 pixels, trained on a laptop's CPU."""
    return MobileViTSpace(
        "mobilevit-nano",
        (
            Stage((24, 32), stride=1),
            Stage((32, 40), depth=2),
            Stage((48, 64), stride=1, dims=(48, 64), layers=2),
            Stage((64, 80), dims=(64, 96), layers=2),
        ),
        features=(128, 192),
        patches=(4, 2),
        image_size=image_size,
        num_classes=num_classes,
    )
