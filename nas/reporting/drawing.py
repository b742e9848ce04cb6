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
svg.arch { display: block; max-width: 100%; height: auto; margin: 2px 0 4px; }
svg.arch .ghost { fill: none; pointer-events: all; stroke: var(--ghost); stroke-dasharray: 2.5 2.5; }
svg.arch text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg.arch line { stroke: var(--line); }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; background: currentColor; }
.label { white-space: nowrap; margin-right: 10px; }
.key.ghost { background: none; border: 1px dashed var(--soft); }
"""
    + "".join(f".kind{i} {{ color: {color}; fill: {color}; }}\n" for i, color in enumerate(LIGHT))
    + "@media (prefers-color-scheme: dark) {\n"
    + "".join(f".kind{i} {{ color: {color}; fill: {color}; }}\n" for i, color in enumerate(DARK))
    + "}\n"
)
BAR, HEIGHT, LEAST = 14, 72, 1.5  # pixels: the widest bar and the highest, and what every bar has at least
GAP, PLACE_GAP, STAGE_GAP = 1, 4, 22  # pixels between the blocks of one place, between places, between stages


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
    """The network as bars, left to right in the order of execution: as high as the block's multiply-accumulates, as
    wide as the share of the largest network's channels that it keeps, coloured by its kind.

    Dashed outlines are the space's largest network, so what was removed is what is empty. Below each run of equal
    resolution stand its channels.
    """
    height = (HEIGHT - 1) / max(block.macs for block in space.lower(space.largest))
    colors = _colors(space)
    x, parts = 1.0, list[Markup]()
    for stage in _stages(space, arch):
        start = x
        for _, places in groupby(stage, key=lambda place: place.name):
            for place in places:
                parts += _bars(place, x, height, colors)
                x += BAR + GAP
            x += PLACE_GAP - GAP
        end = x - PLACE_GAP
        parts.append(html('<line x1="{:.1f}" x2="{:.1f}" y1="{y}" y2="{y}"/>', start, end, y=HEIGHT + 0.5))
        if stage[0].resolution:
            parts.append(html('<text x="{:.1f}" y="{}">{}</text>', start, HEIGHT + 14, _stage_channels(stage)))
        x = end + STAGE_GAP
    right, bottom = ceil(x - STAGE_GAP) + 1, HEIGHT + 18
    return html(
        '<svg class="arch" width="{right}" height="{bottom}" viewBox="0 0 {right} {bottom}" role="img" '
        'aria-label="{}">{}</svg>\n',
        describe(space, arch),
        joined(parts),
        right=right,
        bottom=bottom,
    )


def legend(space: SearchSpace) -> Markup:
    """What the colours of `draw_arch` mean: the kinds of blocks, the most frequent first."""
    kinds = {_words(kind): color for kind, color in _colors(space).items()} | {"what the largest network has": "ghost"}
    label = '<span class="label"><span class="key {}"></span> {}</span> '
    return joined(html(label, css, words) for words, css in kinds.items())


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
