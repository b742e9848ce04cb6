"""A page of text, tables and plots that loads nothing but itself. Text from outside goes through `escape`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any
from urllib.parse import quote

BLUE, ORANGE, GREEN, GRAY = "#4a86e8", "#e0802b", "#34a06a", "#9aa1a9"
CYCLE = (BLUE, ORANGE, GREEN, "#a76fd1", "#c9a227", "#4bb3c1", "#d1657f")
GRID = "rgba(128, 128, 128, 0.2)"
AXIS = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}

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


def page(title: str, body: str, *, style: str = "", plots: bool = True) -> str:
    """The whole document, with Plotly's script in it if there are plots.

    Args:
        style: more of it.
    """
    scripts = ""
    if plots:
        from plotly.offline import get_plotlyjs

        scripts = f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script>\n"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}{style}</style>\n{scripts}</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def warning(text: str) -> str:
    """A paragraph that is not overlooked."""
    return f"<p><strong>{escape(text)}</strong></p>\n"


def embed(name: str, figure: Any, shape: str | None = None) -> str:
    """The figure as HTML for a body of `page`.

    Args:
        shape: "", "low" or "square"; None for a figure that has a height of its own.
    """
    data = figure.to_json().replace("<", "\\u003c")
    classes = "" if shape is None else f' class="plot {shape}"'
    return f'<div id="{name}"{classes}></div>\n<script>plot("{name}", {data});</script>\n'


def figure(traces: Sequence[Any], x_title: str = "", y_title: str = "", **layout: Any) -> Any:
    """A figure for Plotly's JavaScript: no background of its own, thin grid, legend above."""
    import plotly.graph_objects as go

    style = go.Layout(
        template=go.layout.Template(),
        font={"family": "system-ui, sans-serif", "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"align": "left"},
        xaxis={**AXIS, "title": {"text": x_title}},
        yaxis={**AXIS, "title": {"text": y_title}},
    )
    return go.Figure(list(traces), style).update_layout(**layout)


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with plain numbers at 1, 2 and 5 times the powers of ten."""
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    ticks = [m * 10.0**e for e in range(low, high + 1) for m in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{t:,.10g}" for t in ticks]}


class Html(str):
    """A cell of `table` that is HTML already."""


def link(path: str, text: str) -> Html:
    """To a file, relative to the page's folder."""
    return Html(f'<a href="{quote(path)}">{escape(text)}</a>')


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = (0,), wide: bool = False) -> str:
    """Cells are escaped unless they are `Html`; a line break in a heading starts its small second line.

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
        "<tr>"
        + "".join(
            f"<td{c}>{cell if isinstance(cell, Html) else escape(cell)}</td>"
            for c, cell in zip(classes, row, strict=True)
        )
        + "</tr>\n"
        for row in rows
    )
    kind = ' class="wide"' if wide else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'
