"""A page of text and plots that loads nothing but itself, in the style of the report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

BLUE, ORANGE, GRAY = "#4a86e8", "#e0802b", "#9aa1a9"
GRID = "rgba(128, 128, 128, 0.2)"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

STYLE = """
:root { color-scheme: light dark; --text: #1d2127; --soft: #5c6570; --line: #e1e4e8; --page: #fff; --panel: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --soft: #9aa4af; --line: #30363d; --page: #14171b;
  --panel: #1c2025; } }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
p { color: var(--soft); font-size: 13.5px; margin: 6px 0; max-width: 96ch; }
pre { font: 13px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: var(--panel); border-radius: 6px;
  padding: 12px 14px; overflow-x: auto; margin: 24px 0; }
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


def page(title: str, body: str) -> str:
    """The whole document, with Plotly's script in it."""
    from plotly.offline import get_plotlyjs

    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n'
        f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def embed(name: str, figure: Any) -> str:
    """The figure as HTML for a body of `page`."""
    data = figure.to_json().replace("<", "\\u003c")
    return f'<div id="{name}"></div>\n<script>plot("{name}", {data});</script>\n'


def figure(traces: Sequence[Any], **layout: Any) -> Any:
    """A figure without a background of its own, its grid thin, its legend above."""
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}
    style = go.Layout(
        template=go.layout.Template(),
        font={"family": "system-ui, sans-serif", "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"align": "left"},
        xaxis=axis,
        yaxis=axis,
    )
    return go.Figure(list(traces), style).update_layout(**layout)
