"""Where blocks lie in MobileViT's networks: slots, each a function of the few choices that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

from search_spaces.block import BlockSpec, HeadSpec, Slot
from search_spaces.mobilevit.blocks import Convolution, InvertedResidual
from search_spaces.mobilevit.published import NONE, RESIDUAL, STEM_WIDTH
from search_spaces.mobilevit.transformer import Attention, Ffn, Fusion, Local, Projection, whole_patches

Values = Mapping[str, int]  # of some choices, by name


@dataclass(frozen=True)
class Stage:
    """What a stage may be.

    Args:
        widths: options of its width, multiples of 8.
        stride: of its first inverted residual.
        depth: the most inverted residuals.
        dims: options of its transformer's width, multiples of 4; none where it has no MobileViT block.
        layers: the most layers of that.
        may_lack: networks may be without the stage.
    """

    widths: tuple[int, ...]
    stride: int = 2
    depth: int = 1
    dims: tuple[int, ...] = ()
    layers: int = 0
    may_lack: bool = False


@dataclass(frozen=True)
class Transformer:
    """The parts of a MobileViT block that all its layers have in common; `name` is the block's."""

    name: str
    width: int
    dim: int
    patch: int
    resolution: int
    fusion: int

    @property
    def tokens(self) -> int:
        return whole_patches(self.resolution, self.patch) ** 2

    @property
    def held(self) -> int:
        """Elements of the input that the block is fused with."""
        return 0 if self.fusion == NONE else self.width * self.resolution**2


class Slots:
    """The slots of a space's networks.

    Attributes:
        vits: stages that have a MobileViT block.
        layers: of each of these, names of the choices that say which layers it has.
    """

    def __init__(self, stages: Sequence[Stage], image_size: int, in_chans: int, num_classes: int) -> None:
        self.stages, self.image_size, self.in_chans, self.num_classes = stages, image_size, in_chans, num_classes
        self._presence = [f"present.{s}.0" for s, _ in enumerate(stages)]
        self.vits = [s for s, stage in enumerate(stages) if stage.dims]
        self.layers = [[f"layer.{i}.{n}" for n in range(stages[s].layers)] for i, s in enumerate(self.vits)]

    def make(self, position: Mapping[str, int]) -> Iterator[Slot]:
        """In the order of execution.

        Args:
            position: of each choice in the space, by its name.
        """
        for names, block in self._places():
            names = tuple(dict.fromkeys(names))
            yield Slot(tuple(position[name] for name in names), partial(_called, block, names))

    def _places(self) -> Iterator[tuple[Iterable[str], Callable[[Values], BlockSpec | None]]]:
        """(names of choices, the block as a function of their values)."""
        yield ["width.0"], self._stem  # of which nothing varies, but a slot depends on something
        for s, stage in enumerate(self.stages):
            for b in range(stage.depth):
                own = f"present.{s}.{b}", f"expansion.{s}.{b}"
                yield (*self._shape_names(s - 1), *self._shape_names(s), *own), partial(self._residual, s, b)
            if stage.dims:
                yield from self._transformer_places(self.vits.index(s))
        ends = *self._shape_names(len(self.stages) - 1), "features.0"
        yield ends, self._final
        yield ends, self._head

    def _transformer_places(self, i: int) -> Iterator[tuple[Iterable[str], Callable[[Values], BlockSpec | None]]]:
        s = self.vits[i]
        around = *self._presence_names(s), f"width.{s}", f"dim.{i}", f"patch.{i}", f"fusion.{i}"
        layers = self.layers[i]
        yield (*around, *layers), partial(self._local, i)
        for n, layer in enumerate(layers):
            yield (*around, layer, f"heads.{i}.{n}"), partial(self._attention, i, n)
            yield (*around, layer, f"ratio.{i}.{n}"), partial(self._ffn, i, n)
        yield (*around, *layers), partial(self._projection, i)
        yield (*around, *layers), partial(self._fusion, i)

    # ---- shapes

    def resolution(self, v: Values, stage: int) -> int:
        """Of the stage's output, present or not; of the stem's for -1."""
        size = ceil(self.image_size / 2)
        for s, one in enumerate(self.stages[: stage + 1]):
            if v.get(self._presence[s], 1):
                size = ceil(size / one.stride)
        return size

    def _width(self, v: Values, stage: int) -> int:
        """Of the stage's output, or of the last stage before it that is present; of the stem's for -1."""
        for s in range(stage, -1, -1):
            if v[self._presence[s]]:
                return v[f"width.{s}"]
        return STEM_WIDTH

    def _presence_names(self, stage: int) -> list[str]:
        """Choices that the resolution of the stage depends on."""
        return self._presence[: stage + 1]

    def _shape_names(self, stage: int) -> list[str]:
        """Choices that resolution and width of the stage's output depend on."""
        sure = max((s for s in range(stage + 1) if not self.stages[s].may_lack), default=0)
        return self._presence_names(stage) + [f"width.{s}" for s in range(sure, stage + 1)]

    def _transformer(self, i: int, v: Values) -> Transformer:
        s = self.vits[i]
        own = v[f"width.{s}"], v[f"dim.{i}"], v[f"patch.{i}"], self.resolution(v, s), v[f"fusion.{i}"]
        return Transformer(f"stages.{s}.{self.stages[s].depth}", *own)

    # ---- blocks

    def _stem(self, _: Values) -> BlockSpec:
        return Convolution("stem", self.in_chans, STEM_WIDTH, 3, 2, self.image_size)

    def _residual(self, s: int, b: int, v: Values) -> BlockSpec | None:
        if not (v[self._presence[s]] and v[f"present.{s}.{b}"]):
            return None
        before, stride = (s, 1) if b else (s - 1, self.stages[s].stride)
        shape = self._width(v, before), v[f"width.{s}"], v[f"expansion.{s}.{b}"]
        return InvertedResidual(f"stages.{s}.{b}", *shape, stride, self.resolution(v, before))

    def _is_there(self, i: int, v: Values) -> bool:
        return bool(v[self._presence[self.vits[i]]]) and any(v[name] for name in self.layers[i])

    def _has_layer(self, i: int, n: int, v: Values) -> bool:
        return bool(v[self._presence[self.vits[i]]] and v[self.layers[i][n]])

    def _local(self, i: int, v: Values) -> BlockSpec | None:
        if not self._is_there(i, v):
            return None
        t = self._transformer(i, v)
        return Local(t.name, t.width, t.dim, t.patch, t.resolution, kept=t.fusion != NONE)

    def _attention(self, i: int, n: int, v: Values) -> BlockSpec | None:
        if not self._has_layer(i, n, v):
            return None
        t = self._transformer(i, v)
        return Attention(f"{t.name}.transformer.{n}", t.dim, v[f"heads.{i}.{n}"], t.patch**2, t.tokens, t.held)

    def _ffn(self, i: int, n: int, v: Values) -> BlockSpec | None:
        if not self._has_layer(i, n, v):
            return None
        t = self._transformer(i, v)
        return Ffn(f"{t.name}.transformer.{n}", t.dim, v[f"ratio.{i}.{n}"], t.tokens, t.held)

    def _projection(self, i: int, v: Values) -> BlockSpec | None:
        if not self._is_there(i, v):
            return None
        t = self._transformer(i, v)
        return Projection(t.name, t.dim, t.width, t.patch, t.resolution, t.fusion != NONE, t.held)

    def _fusion(self, i: int, v: Values) -> BlockSpec | None:
        if not self._is_there(i, v) or v[f"fusion.{i}"] == NONE:
            return None
        t = self._transformer(i, v)
        return Fusion(t.name, t.width, t.resolution, t.fusion == RESIDUAL)

    def _final(self, v: Values) -> BlockSpec:
        last = len(self.stages) - 1
        return Convolution("final_conv", self._width(v, last), v["features.0"], 1, 1, self.resolution(v, last))

    def _head(self, v: Values) -> BlockSpec:
        return HeadSpec("head", v["features.0"], self.num_classes, self.resolution(v, len(self.stages) - 1))


def _called(block: Callable[[Values], BlockSpec | None], names: Sequence[str], *values: int) -> BlockSpec | None:
    return block(dict(zip(names, values, strict=True)))
