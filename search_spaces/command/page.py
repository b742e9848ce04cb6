"""A page of text, tables and plots that loads nothing but itself.

All that a page is made of is escaped unless it is `Markup`, and only `html` makes that, of a template written in the
code and values that it escapes (tests/test_architecture.py). No script runs but the two whose hashes the page's policy
names: Plotly's and ours. What they draw lies beside them as JSON.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from math import ceil, floor, log10
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

BLUE, ORANGE, GREEN, GRAY = "#4a86e8", "#e0802b", "#34a06a", "#9aa1a9"
CYCLE = (BLUE, ORANGE, GREEN, "#a76fd1", "#c9a227", "#4bb3c1", "#d1657f")
GRID = "rgba(128, 128, 128, 0.2)"
AXIS = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}

# No script, style, font or image but the page's own, no other page's form, no other base of its links.
POLICY = (
    "default-src 'none'; script-src {}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'"
)

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
for (const data of document.querySelectorAll('script[data-plot]')) {
  plot(data.dataset.plot, JSON.parse(data.textContent));
}
"""
# What Plotly may read as HTML in the texts of a figure; it knows links, too.
FORMATS = re.compile(r"""<(?!/?b>|br>|/?extra>|/?span>|span style="color:#[0-9a-f]{6}">)""")


def html(template: str, /, *values: Any, **named: Any) -> Markup:
    """The template with the values in its places `{}` or `{name}`, escaped unless they are Markup already."""
    return Markup(template).format(*values, **named)


def joined(parts: Iterable[str]) -> Markup:
    """One after another, escaped unless they are Markup."""
    return Markup("").join(parts)


def page(title: str, parts: Iterable[str], *, style: str = "", plots: bool = True) -> str:
    """The whole document, with Plotly's script in it if there are plots.

    Args:
        parts: of the body; escaped unless they are Markup.
        style: more of it, our own.
    """
    scripts = (_plotly(), SCRIPT) if plots else ()
    first, last = (html("<script>{}</script>\n", Markup(script)) for script in scripts) if plots else ("", "")
    whole = html(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n<title>{title}</title>\n'
        "<style>{style}</style>\n{first}</head>\n<body>\n<main>\n{body}</main>\n{last}</body>\n</html>\n",
        policy=Markup(POLICY.format(" ".join(map(_hash, scripts)) or "'none'")),
        title=title,
        style=Markup(STYLE + style),
        first=first,
        body=joined(parts),
        last=last,
    )
    return str(whole)


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def _hash(script: str) -> str:
    """As a policy names a script that may run."""
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"


def warning(text: str) -> Markup:
    """A paragraph that is not overlooked."""
    return html("<p><strong>{}</strong></p>\n", text)


def embed(name: str, figure: Any, shape: str | None = None) -> Markup:
    """The figure as HTML for a body of `page`.

    Args:
        shape: "", "low" or "square"; None for a figure that has a height of its own.
    """
    data = json.dumps(_tame(json.loads(figure.to_json()))).replace("<", "\\u003c")
    classes = "" if shape is None else html(' class="plot {}"', shape)
    block = '<div id="{}"{}></div>\n<script type="application/json" data-plot="{}">{}</script>\n'
    return html(block, name, classes, name, Markup(data))


def _tame(value: Any) -> Any:
    """JSON of a figure, in whose texts no HTML is left but what makes them bold, coloured or of several lines."""
    if isinstance(value, str):
        return FORMATS.sub("&lt;", value)
    if isinstance(value, dict):
        return {name: _tame(item) for name, item in value.items()}
    return [_tame(item) for item in value] if isinstance(value, list) else value


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


def link(path: str, text: str) -> Markup:
    """To a file, relative to the page's folder."""
    return html('<a href="{}">{}</a>', quote(path), text)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = (0,), wide: bool = False
) -> Markup:
    """A line break in a heading starts its small second line.

    Args:
        text: columns that hold words, aligned left; all others are numbers.
    """
    classes = [Markup(' class="text"') if i in text else Markup("") for i in range(len(head))]
    top = joined(_heading(kind, name) for kind, name in zip(classes, head, strict=True))
    body = joined(
        html("<tr>{}</tr>\n", joined(html("<td{}>{}</td>", *cell) for cell in zip(classes, row, strict=True)))
        for row in rows
    )
    return html(
        '<div class="scroll"><table{}><thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>\n',
        Markup(' class="wide"') if wide else "",
        top,
        body,
    )


def _heading(kind: Markup, name: str) -> Markup:
    first, _, small = name.partition("\n")
    return html("<th{}>{}{}</th>", kind, first, html("<small>{}</small>", small) if small else "")
