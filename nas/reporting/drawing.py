"""What only the report has: the drawing of networks, figures as text. Text from outside goes through `escape`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

from search_spaces import Arch, SearchSpace

STYLE = """
svg.arch { display: block; max-width: 100%; height: auto; margin: 2px 0 4px; }
svg.arch .ghost { fill: none; stroke: var(--ghost); stroke-dasharray: 2.5 2.5; }
svg.arch .block { fill: var(--series1); }
svg.arch .attention { fill: var(--series2); }
svg.arch text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg.arch line { stroke: var(--line); }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; background: var(--series1); }
.key.round { border-radius: 50%; background: var(--series2); }
.key.ghost { background: none; border: 1px dashed var(--soft); }
"""
UNIT, GAP, STAGE_GAP, BAR = 16, 4, 22, 36  # pixels: a unit of expansion, between blocks and stages, the widest bar


def draw_arch(space: SearchSpace, arch: Arch) -> str:
    """The network as bars, left to right: a block's width is its channels, its height the expansion, a dot attention.

    Dashed outlines are the space's largest network, so what was removed is what is empty.
    """
    value, largest = by_choice(space, arch), by_choice(space, space.largest)
    scale = BAR / max(v for (field, _), v in largest.items() if field == "width")
    base = UNIT * max(v for (field, _), v in largest.items() if field == "expansion") + 16
    x, parts = 1.0, []
    for stage in stages(space):
        start, width, full = x, value["width", (stage,)], largest["width", (stage,)]
        for block in (index for field, index in largest if field == "expansion" and index[0] == stage):
            ghost = (full, largest["expansion", block])
            kept = (width, value["expansion", block]) if value["present", block] else None
            if kept != ghost:
                parts.append(_rect("ghost", x + full * scale / 2, base, full * scale, UNIT * ghost[1]))
            if kept:
                parts.append(_rect("block", x + full * scale / 2, base, width * scale, UNIT * kept[1]))
            if value.get(("attention", block)):
                parts.append(f'<circle class="attention" cx="{x + full * scale / 2:.1f}" cy="7" r="4"/>')
            x += full * scale + GAP
        parts.append(f'<line x1="{start:.1f}" x2="{x - GAP:.1f}" y1="{base + 0.5}" y2="{base + 0.5}"/>')
        parts.append(f'<text x="{start:.1f}" y="{base + 14}">{width}</text>')
        x += STAGE_GAP
    right, bottom = ceil(x - STAGE_GAP), base + 18
    return (
        f'<svg class="arch" width="{right}" height="{bottom}" viewBox="0 0 {right} {bottom}" role="img" '
        f'aria-label="{escape(describe(space, arch))}">{"".join(parts)}</svg>\n'
    )


def by_choice(space: SearchSpace, arch: Arch) -> dict[tuple[str, tuple[int, ...]], int]:
    """The arch's values by (field, index)."""
    return {(c.field, c.index): v for c, v in zip(space.choices, arch.values, strict=True)}


def stages(space: SearchSpace) -> list[int]:
    return [c.index[0] for c in space.choices if c.field == "width"]


def describe(space: SearchSpace, arch: Arch) -> str:
    """The arch in words: 'widths 24, 40; depths 2, 1; expansions 44 | 3; 2 attention blocks'."""
    value = by_choice(space, arch)
    kept = [[i for f, i in value if f == "present" and i[0] == s and value[f, i]] for s in stages(space)]
    expansions = " | ".join("".join(str(value["expansion", i]) for i in blocks) for blocks in kept)
    attention = sum(v for (field, _), v in value.items() if field == "attention")
    return (
        f"widths {', '.join(str(value['width', (s,)]) for s in stages(space))}; "
        f"depths {', '.join(str(len(blocks)) for blocks in kept)}; expansions {expansions}; "
        f"{attention or 'no'} attention block{'' if attention == 1 else 's'}"
    )


def _rect(kind: str, center: float, base: float, width: float, height: float) -> str:
    x, y = center - width / 2, base - height
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5"/>'


def percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def numbers(column: Sequence[float | None]) -> list[str]:
    """One number of decimals for the column: three digits of its smallest value, at most three decimals."""
    smallest = min((abs(v) for v in column if v), default=1.0)
    decimals = min(3, max(0, 2 - floor(log10(smallest))))
    return ["–" if v is None else f"{v:,.{decimals}f}" for v in column]
