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
from textwrap import wrap
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from search_spaces.command.words import PATTERN, WORDS, word_of

BLUE, ORANGE, GREEN, GRAY = "#4a86e8", "#e0802b", "#34a06a", "#9aa1a9"
CYCLE = (BLUE, ORANGE, GREEN, "#a76fd1", "#c9a227", "#4bb3c1", "#d1657f")
LEGEND = 44  # characters of a line
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
th, th.text, td.text { white-space: normal; text-wrap: balance; }
th:first-child, td:first-child { padding-left: 0; position: sticky; left: 0; background: var(--page); }
th.text, td.text { text-align: left; }
th small, td small { display: block; font-weight: 400; color: var(--soft); font-size: 12px; }
tr.strong td { font-weight: 600; }
code, pre { font: 13px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
.whole { white-space: nowrap; }
pre { background: var(--panel); border-radius: 6px; padding: 12px 14px; margin: 10px 0; white-space: pre-wrap;
  overflow-wrap: anywhere; }
pre span { display: block; padding-left: 2em; text-indent: -2em; }
abbr { text-decoration: underline dotted var(--soft); text-underline-offset: 3px; cursor: help; }
dl { font-size: 13.5px; max-width: 96ch; }
dt { font-weight: 600; margin-top: 8px; }
dd { margin: 0; color: var(--soft); }
.axis { color: var(--soft); font-size: 13px; margin: 10px 0 0; }
.axis.x { text-align: center; margin: 0; max-width: none; }
.plot.square + script + .axis.x { max-width: 560px; }
details { margin: 12px 0; }
summary { cursor: pointer; font-weight: 600; }
figure { margin: 14px 0; }
.plot { width: 100%; height: 440px; }
.plot.low { height: 300px; }
.plot.square { max-width: 560px; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px 24px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 0 40px; }
.cards figure { margin: 4px 0; }
@media (max-width: 560px) { main { padding: 20px 14px 48px; } .plot { height: 400px; } .plot.low { height: 270px; }
  .pair { grid-template-columns: minmax(0, 1fr); } th, td { padding-left: 14px; }
  .stack thead, .stack td:empty { display: none; }
  .stack, .stack tbody, .stack tr { display: block; }
  .stack tr { border-bottom: 1px solid var(--line); padding: 6px 0; }
  .stack td { display: flex; justify-content: space-between; gap: 14px; padding: 1px 0; border: 0; white-space: normal;
    overflow-wrap: anywhere; }
  .stack td small { display: inline; margin-left: 6px; white-space: nowrap; }
  .stack td::before { content: attr(data-head); color: var(--soft); text-align: left; max-width: 55%;
    overflow-wrap: break-word; flex: none; }
  .stack td:first-child { font-weight: 600; }
  .stack td:first-child.text::before { content: none; } }
"""

# Plotly takes colours as values, so it is told again when the system's theme changes. The lines of a legend, many on a
# narrow screen, are added to a plot's height: else they take it away.
SCRIPT = """
const plots = [];
function theme() {
  const style = getComputedStyle(document.documentElement);
  const color = name => style.getPropertyValue('--' + name).trim();
  return { 'font.color': color('text'), 'hoverlabel.bgcolor': color('panel'), 'hoverlabel.bordercolor': color('line'),
           'hoverlabel.font.color': color('text') };
}
function plot(id, figure) {
  const place = document.getElementById(id);
  Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  const legend = place.querySelector('.legend');
  if (legend && place.classList.contains('plot')) {
    place.style.height = `${place.clientHeight + legend.getBBox().height}px`;
    Plotly.Plots.resize(place);
  }
  Plotly.relayout(place, theme());
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
    body, used = explained(joined(parts))
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
        body=body + words(used),
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


# Texts between these tags stay as they are: no prose, or explained already.
_LEFT_ALONE = {"script", "pre", "code", "svg", "abbr", "a", "h1", "h2", "h3", "summary", "figcaption", "title"}


def explained(body: Markup) -> tuple[Markup, list[str]]:
    """The body with the words of `WORDS` explained where the pointer rests, once in a table and in what is under a
    heading; and which it has, in alphabetic order."""
    parts: list[Markup] = []
    inside: list[str] = []
    seen, used = set[str](), set[str]()
    for part in re.split(r"(<[^>]*>)", body):
        if not part.startswith("<"):
            parts.append(Markup(part) if inside else _with_titles(part, seen))
            used |= seen
            continue
        parts.append(Markup(part))
        name = re.split(r"[\s>]", part.strip("</"), maxsplit=1)[0]
        if name in ("h2", "table"):
            seen = set()
        if name in _LEFT_ALONE:
            inside = inside[:-1] if part.startswith("</") else [*inside, name]
    return joined(parts), sorted(used, key=str.lower)


def _with_titles(text: str, seen: set[str]) -> Markup:
    """HTML without tags, words that were not seen before with what they mean; these are then seen."""
    parts = PATTERN.split(text)
    for i in range(1, len(parts), 2):
        if (word := word_of(parts[i])) not in seen:
            seen.add(word)
            parts[i] = html('<abbr title="{}" tabindex="0">{}</abbr>', WORDS[word], parts[i])
    return joined(Markup(part) for part in parts)


def words(used: Sequence[str]) -> Markup:
    """A list of what they mean, for readers without a pointer."""
    if not used:
        return Markup("")
    meanings = joined(html("<dt>{}</dt><dd>{}</dd>\n", word, WORDS[word]) for word in used)
    return html("<details><summary>What the words mean</summary>\n<dl>\n{}</dl></details>\n", meanings)


def commands(lines: Iterable[str]) -> Markup:
    """Commands to be read and copied: too long ones go on in the next line, indented."""
    return html("<pre>{}</pre>\n", joined(html("<span>{}</span>", line) for line in lines))


def warning(text: str) -> Markup:
    """A paragraph that is not overlooked."""
    return html("<p><strong>{}</strong></p>\n", text)


def embed(name: str, figure: Any, shape: str | None = None) -> Markup:
    """The figure as HTML for a body of `page`, its axes named above and below, where no height can clip them.

    Args:
        shape: "", "low" or "square"; None for a figure that has a height of its own.
    """
    y_title, x_title = (_axis_name(figure, kind) for kind in "yx")
    data = json.dumps(_tame(json.loads(figure.to_json()))).replace("<", "\\u003c")
    classes = "" if shape is None else html(' class="plot {}"', shape)
    block = '<div id="{}"{}></div>\n<script type="application/json" data-plot="{}">{}</script>\n'
    return joined((y_title, html(block, name, classes, name, Markup(data)), x_title))


def _axis_name(figure: Any, kind: str) -> Markup:
    """The title of the axis, which is taken away there; that of one of several panels stays."""
    axis = figure.layout[f"{kind}axis"]
    text = axis.title.text
    if not text or figure.layout.to_plotly_json().keys() & {"xaxis2", "yaxis2"}:
        return Markup("")
    axis.title = None
    return html('<p class="axis {}">{}</p>\n', kind, text)


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
    drawn = go.Figure(list(traces), style).update_layout(**layout)
    return drawn.for_each_trace(lambda trace: trace.update(name="<br>".join(_fitting(trace.name or ""))))


def _fitting(name: str) -> list[str]:
    """Lines that a narrow screen's legend has room for."""
    return wrap(name, LEGEND, break_long_words=False, break_on_hyphens=False)


MIN_TICKS = 3  # within the values
TICKS = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(1 + 0.5 * i for i in range(18)))  # times powers of ten


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with plain numbers: round multiples of the powers of ten, or even steps."""
    low, high = min(values), max(values)
    if high / low < 1.1:
        low, high = low / 1.1, high * 1.1
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    for multiples in TICKS:
        ticks = [m * 10.0**e for e in powers for m in multiples]
        if sum(low <= t <= high for t in ticks) >= MIN_TICKS:
            break
    else:
        step = _round_step((high - low) / MIN_TICKS)
        ticks = [step * i for i in range(floor(low / step), ceil(high / step) + 1) if i > 0]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{t:,.4g}" if t < 1000 else f"{t:,.0f}" for t in ticks]}


def _round_step(most: float) -> float:
    """1, 2 or 5 times a power of ten, not above this."""
    power = 10.0 ** floor(log10(most))
    return max(m * power for m in (1, 2, 5) if m * power <= most)


def link(path: str, text: str) -> Markup:
    """To a file, relative to the page's folder."""
    return html('<a href="{}">{}</a>', quote(path), text)


NARROW = 372  # pixels of a phone's page
CHARACTER, COLUMN = 7.6, 16  # pixels of a character, and between columns


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = (0,), wide: bool = False
) -> Markup:
    """A line break in a heading or a cell starts its small second line.

    On a narrow screen, a table that is too wide for it has a line for each cell.

    Args:
        text: columns that hold words, aligned left; all others are numbers.
    """
    css = ["wide"] * wide + ["stack"] * (_width(head, rows) > NARROW)
    kinds = [Markup(' class="text"') if i in text else Markup("") for i in range(len(head))]
    top = joined(html("<th{}>{}</th>", kind, _two_lines(name)) for kind, name in zip(kinds, head, strict=True))
    heads = [name.replace("\n", ", ") for name in head]
    body = joined(html("<tr>{}</tr>\n", joined(map(_cell, kinds, heads, row))) for row in rows)
    return html(
        '<div class="scroll"><table class="{}"><thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>\n',
        " ".join(css),
        top,
        body,
    )


def _cell(kind: Markup, head: str, text: str) -> Markup:
    content = html("<span>{}</span>", _two_lines(text)) if text else ""  # one part for a narrow screen to place
    return html('<td{} data-head="{}">{}</td>', kind, head, content)


def _two_lines(text: str) -> Markup:
    if isinstance(text, Markup):
        return text
    first, _, small = text.partition("\n")
    return html("{}{}", first, html("<small>{}</small>", small) if small else "")


def _width(head: Sequence[str], rows: Sequence[Sequence[str]]) -> float:
    """About how many pixels a table takes."""
    columns = zip(head, *rows, strict=True)
    longest = (max(len(line) for text in column for line in _shown(text).split("\n")) for column in columns)
    return sum(CHARACTER * count + COLUMN for count in longest)


def _shown(text: str) -> str:
    return text.striptags() if isinstance(text, Markup) else text
