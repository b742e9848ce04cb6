"""The report's page: style, tables, the drawing of networks. Strings only; text from outside goes through `escape`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil

from search_spaces import Arch, SearchSpace

# The page can load nothing: no script, style, font or image but its own.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

STYLE = """
:root { color-scheme: light dark; --text: #1d2127; --soft: #5c6570; --line: #e1e4e8; --page: #fff; --panel: #f6f7f9;
  --series1: #2f6fde; --series2: #d9730d; --series3: #2b8a57; --ghost: #c5cad1; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --soft: #9aa4af; --line: #30363d; --page: #14171b;
  --panel: #1c2025; --series1: #6ea2ff; --series2: #f0a04b; --series3: #5fc48d; --ghost: #4a525c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 8px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 22px 0 4px; }
p { margin: 6px 0; max-width: 80ch; }
.soft, figcaption { color: var(--soft); font-size: 13.5px; max-width: 96ch; }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
table.wide { width: 100%; }
th { font-weight: 600; vertical-align: bottom; font-size: 13px; }
th, td { padding: 5px 0 5px 18px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; position: sticky; left: 0; background: var(--page); }
th.text, td.text { text-align: left; }
th small { display: block; font-weight: 400; color: var(--soft); font-size: 12px; }
tr.strong td { font-weight: 600; }
code, pre { font: 13px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
.whole { white-space: nowrap; }
pre { background: var(--panel); border-radius: 6px; padding: 12px 14px; overflow-x: auto; margin: 10px 0; }
details { margin: 12px 0; }
summary { cursor: pointer; font-weight: 600; }
figure { margin: 14px 0; }
.plot { width: 100%; height: 440px; }
.plot.low { height: 300px; }
.plot.square { max-width: 560px; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px 24px; }
.cards { display: flex; flex-wrap: wrap; gap: 0 48px; }
.cards figure { flex: 1 1 auto; max-width: 100%; margin: 4px 0; }
.cards figcaption { width: 0; min-width: 100%; }
svg.arch { display: block; max-width: 100%; height: auto; margin: 2px 0 4px; }
svg.arch .ghost { fill: none; stroke: var(--ghost); stroke-dasharray: 2.5 2.5; }
svg.arch .block { fill: var(--series1); }
svg.arch .attention { fill: var(--series2); }
svg.arch text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg.arch line { stroke: var(--line); }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; background: var(--series1); }
.key.round { border-radius: 50%; background: var(--series2); }
.key.ghost { background: none; border: 1px dashed var(--soft); }
@media (max-width: 560px) { main { padding: 20px 14px 48px; } .plot { height: 400px; } .plot.low { height: 270px; }
  .pair { grid-template-columns: minmax(0, 1fr); } th, td { padding-left: 14px; } }
"""

# Plotly takes colours as values, so it is told again when the system's theme changes.
SCRIPT = """
const plots = [];
function theme() {
  const style = getComputedStyle(document.documentElement);
  const color = name => style.getPropertyValue('--' + name).trim();
  return { 'font.color': color('text'), 'hoverlabel.bgcolor': color('panel'), 'hoverlabel.bordercolor': color('line'),
           'hoverlabel.font.color': color('text') };
}
function plot(id, figure) {
  Plotly.newPlot(id, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  Plotly.relayout(id, theme());
  plots.push(id);
}
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () =>
  plots.forEach(id => Plotly.relayout(id, theme())));
"""


def page(title: str, body: str, plotly_js: str) -> str:
    """The whole document; `plotly_js` is inlined once, or left out if empty."""
    scripts = f"<script>{plotly_js}</script>\n<script>{SCRIPT}</script>\n" if plotly_js else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n{scripts}</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = (0,), wide: bool = False) -> str:
    """Cells are escaped; a line break in a heading starts its small second line.

    Args:
        text: columns that hold words, aligned left; all others are numbers.
    """
    classes = [' class="text"' if i in text else "" for i in range(len(head))]
    headings = (name.partition("\n") for name in head)
    top = "".join(
        f"<th{c}>{escape(first)}{f'<small>{escape(small)}</small>' if small else ''}</th>"
        for c, (first, _, small) in zip(classes, headings, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{escape(cell)}</td>" for c, cell in zip(classes, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    kind = ' class="wide"' if wide else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'


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
