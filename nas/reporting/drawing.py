"""What only the report has: the drawing of networks, figures as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, log10, prod

from search_spaces import Arch, BlockSpec, SearchSpace
from search_spaces.block import Slot
from search_spaces.command.page import Markup, html, joined

LIGHT = ("#2f6fde", "#d9730d", "#2b8a57", "#8e54c9", "#b08900", "#2595a6", "#c24a63", "#7a828c")
DARK = ("#6ea2ff", "#f0a04b", "#5fc48d", "#bd8ff0", "#d9b740", "#5cc4d4", "#ee8a9f", "#9aa4af")
STYLE = (
    """
.arch { font-size: 13px; line-height: 1.35; }
.stage { display: flex; flex-wrap: wrap; align-items: end; gap: 0 10px; padding: 5px 0;
  border-bottom: 1px solid var(--line); }
.stage .where { width: 62px; color: var(--soft); }
.stage .what { flex: 1 1 190px; }
.stage svg { display: block; max-width: 100%; height: auto; }
.stage .ghost { fill: none; pointer-events: all; stroke: var(--ghost); stroke-dasharray: 2.5 2.5; }
"""
    + "".join(f".kind{i} {{ color: {color}; fill: {color}; }}\n" for i, color in enumerate(LIGHT))
    + "@media (prefers-color-scheme: dark) {\n"
    + "".join(f".kind{i} {{ color: {color}; fill: {color}; }}\n" for i, color in enumerate(DARK))
    + "}\n"
)
BAR, HEIGHT, LEAST = 14, 40, 1.5  # pixels: the widest bar and the highest, and what every bar has at least
GAP, PLACE_GAP = 1, 4  # pixels between the blocks of one place, and between places


@dataclass(frozen=True)
class Place:
    """A slot of the space: the block there in a network and in the largest one, None where there is none."""

    block: BlockSpec | None
    full: BlockSpec | None

    @property
    def blocks(self) -> list[BlockSpec]:
        return [block for block in (self.block, self.full) if block is not None]

    @property
    def name(self) -> str:
        return self.blocks[-1].name

    @property
    def resolution(self) -> tuple[int, ...]:
        """Height and width of the output; () of classes."""
        return self.blocks[-1].output_shape()[1:]


def draw_arch(space: SearchSpace, arch: Arch) -> Markup:
    """The network from top to bottom, a line for each run of equal resolution: its blocks as bars, and what they are.

    A bar is as high as the block's multiply-accumulates, as wide as the share of the largest network's channels that it
    keeps, and has the colour that its kind has in the text. Dashed outlines are the largest network.
    """
    height = (HEIGHT - 1) / max(block.macs for block in space.lower(space.largest))
    colors = _colors(space)
    lines = joined(
        html(
            '<div class="stage"><span class="where">{}</span>{}<span class="what">{}</span></div>\n',
            " × ".join(map(str, stage[0].resolution)) or "answer",
            _draw_stage(stage, height, colors),
            _say_stage(stage, colors),
        )
        for stage in _stages(space, arch)
    )
    return html('<div class="arch" role="group" aria-label="{}">\n{}</div>\n', describe(space, arch), lines)


def _draw_stage(stage: Sequence[Place], height: float, colors: Mapping[str, str]) -> Markup:
    x, parts = 1.0, list[Markup]()
    for _, places in groupby(stage, key=lambda place: place.name):
        for place in places:
            parts += _bars(place, x, height, colors)
            x += BAR + GAP
        x += PLACE_GAP - GAP
    tallest = ceil(max(height * block.macs for place in stage for block in place.blocks)) + 1
    top, right = HEIGHT - max(tallest, 8), ceil(x - PLACE_GAP) + 1
    box = html('width="{w}" height="{h}" viewBox="0 {top} {w} {h}"', w=right, h=HEIGHT - top + 1, top=top)
    return html("<svg {}>{}</svg>", box, joined(parts))


def _say_stage(stage: Sequence[Place], colors: Mapping[str, str]) -> Markup:
    """'24 of 40 channels, 2 of 4 InvertedResidual; 1.2 M MACs', of what the largest network has there."""
    held, full = ([b for b in blocks if b] for blocks in zip(*((p.block, p.full) for p in stage), strict=True))
    counts, all_counts = (Counter(block.kind for block in blocks) for blocks in (held, full))
    kinds = joined(
        html(', <span class="{}">{} {}</span>', colors[kind], _of(counts[kind], all_counts[kind]), _words(kind))
        for kind in all_counts | counts
    )
    channels = _of(*(blocks[-1].num_channels if blocks else 0 for blocks in (held, full)))
    macs = sum(block.macs for block in held) / 1e6
    return html("{} channels{}; {:.3g} M MACs", channels, kinds, macs)


def _of(count: int, whole: int) -> str:
    return str(count) if count == whole else f"{count} of {whole}"


def describe(space: SearchSpace, arch: Arch) -> str:
    """The arch in words, by stage: 'channels 24, 40; ffn 2, 1; attention 0, 1'.

    Of the kinds of blocks those that the space can leave out.
    """
    stages = [stage for stage in _stages(space, arch) if stage[0].resolution]
    empty = (slot for slot in space.slots if _may_be_empty(space, slot))
    optional = dict.fromkeys(block.kind for slot in empty for block in space.slot_blocks(slot))
    counts = [Counter(place.block.kind for place in stage if place.block) for stage in stages]
    rows = {_words(kind): [str(count[kind]) for count in counts] for kind in optional}
    rows = {"channels": [_stage_channels(stage) for stage in stages], **rows}
    return "; ".join(f"{name} {', '.join(values)}" for name, values in rows.items())


def _stages(space: SearchSpace, arch: Arch) -> list[list[Place]]:
    """The places in the order of execution, a list for each run of equal resolution."""

    def block(slot: Slot, of: Arch) -> BlockSpec | None:
        return slot.block(*(of.values[i] for i in slot.choices))

    every = (Place(block(slot, arch), block(slot, space.largest)) for slot in space.slots)
    places = (place for place in every if place.blocks)
    return [list(stage) for _, stage in groupby(places, key=lambda place: place.resolution)]


def _colors(space: SearchSpace) -> dict[str, str]:
    """The CSS class of each kind of block, the most frequent kind of the largest network first."""
    largest = Counter(block.kind for block in space.lower(space.largest))
    kinds = dict.fromkeys([kind for kind, _ in largest.most_common()])
    kinds |= dict.fromkeys(block.kind for block in space.all_blocks().values())
    return {kind: f"kind{min(i, len(LIGHT) - 1)}" for i, kind in enumerate(kinds)}


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _may_be_empty(space: SearchSpace, slot: Slot) -> bool:
    options = prod(len(space.choices[i].options) for i in slot.choices)
    return sum(1 for _ in space.slot_blocks(slot)) < options


def _stage_channels(stage: Sequence[Place]) -> str:
    """Those of its last block; '–' where nothing is left."""
    blocks = [place.block for place in stage if place.block]
    return str(blocks[-1].num_channels) if blocks else "–"


def _bars(place: Place, x: float, height: float, colors: Mapping[str, str]) -> Iterator[Markup]:
    """The outline from `x` on, and the bar in its middle; `height` is that of a multiply-accumulate, in pixels."""
    widest = max(block.num_channels for block in place.blocks)

    def bar(css: str, block: BlockSpec) -> Markup:
        w, h = BAR * block.num_channels / widest, max(LEAST, height * block.macs)
        box = html('x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"', x + (BAR - w) / 2, HEIGHT - h, w, h)
        return html('<rect class="{}" {}><title>{}</title></rect>', css, box, _hover(block))

    if place.full and place.full != place.block:
        yield bar("ghost", place.full)
    if place.block:
        yield bar(f"block {colors[place.block.kind]}", place.block)


def _hover(block: BlockSpec) -> str:
    shapes = (" × ".join(map(str, shape)) for shape in (block.input_shape(), block.output_shape()))
    facts = [_words(block.kind), " → ".join(shapes), *([block.detail] if block.detail else [])]
    costs = f"{block.macs / 1e6:.3g} M multiply-accumulates, {block.num_params:,} parameters"
    return f"{block.name}: {', '.join(facts)}; {costs}".removeprefix(": ")


def percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def numbers(column: Sequence[float | None]) -> list[str]:
    """One number of decimals for the column: three digits of its smallest value, at most three decimals."""
    smallest = min((abs(v) for v in column if v), default=1.0)
    decimals = min(3, max(0, 2 - floor(log10(smallest))))
    return ["–" if v is None else f"{v:,.{decimals}f}" for v in column]
