"""The page of `latency_lut.show`: costs by stage, width and kind of block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import cycle
from math import ceil, log10
from typing import Any

from latency_lut.tables.blocks import LEGEND, BlockCost, block_table
from search_spaces.command.page import AXIS, CYCLE, commands, embed, figure, html, log_axis, page, table

COST_NOTE = "A point is a row of the table; a band spans what else varies at that width: a block's inside, input width."
MACS_NOTE = "If MACs told the time, all would lie on one level; what lies high is slow for what it computes."
COLUMNS, PANEL_HEIGHT, GAP, LEGEND_LINE = 2, 300, 60, 20  # panels in a row; pixels


def table_page(title: str, origin: str, costs: Sequence[BlockCost]) -> str:
    """The whole document.

    Args:
        origin: where the table comes from, shown above the plots; below them are all the costs.
    """
    (head, *rows), sides = block_table(costs)
    words = [i for i, side in enumerate(sides) if side == "<"]
    counted = [cost for cost in costs if cost.ms_per_mmac]
    parts = (
        html("<h1>{}</h1>\n{}", title, commands(origin.splitlines())),
        html('<h2>What a block costs</h2>\n<p class="soft">{}</p>\n', COST_NOTE),
        embed("cost", cost_figure(costs, lambda cost: cost.min_ms, "ms")),
        html('<h2>What a million multiply-accumulates cost in it</h2>\n<p class="soft">{}</p>\n', MACS_NOTE),
        embed("per-mac", cost_figure(counted, lambda cost: cost.ms_per_mmac or 0.0, "ms per MMAC", log=True)),
        html('<h2>Every block</h2>\n{}<p class="soft">{}</p>\n', table(head, rows, text=words), LEGEND),
    )
    return page(title, parts)


def cost_figure(
    costs: Sequence[BlockCost], value: Callable[[BlockCost], float], title: str, *, log: bool = False
) -> Any:
    """A panel a stage, all of one scale: the value against the width, a band and points for each kind of block."""
    from plotly.subplots import make_subplots

    panels, colors = _panels(costs), dict(zip(dict.fromkeys(c.kind for c in costs), cycle(CYCLE), strict=False))
    num_rows = ceil(len(panels) / COLUMNS)
    top = GAP + LEGEND_LINE * (len(colors) // 2)  # a phone has room for two names in a line of the legend
    height = PANEL_HEIGHT * num_rows + top + GAP
    drawn = make_subplots(
        num_rows,
        COLUMNS,
        subplot_titles=list(panels),
        vertical_spacing=GAP / (height - top - GAP) if num_rows > 1 else 0.0,
        horizontal_spacing=0.03,
        figure=figure((), height=height, margin={"l": 10, "r": 10, "t": top, "b": GAP}),
    )
    unnamed = set(colors)
    for i, here in enumerate(panels.values()):
        row, col = i // COLUMNS + 1, i % COLUMNS + 1
        for kind in dict.fromkeys(cost.kind for cost in here):
            band, points = _traces([cost for cost in here if cost.kind == kind], value, colors[kind])
            drawn.add_traces([band, points.update(showlegend=kind in unnamed)], row, col)
            unnamed.discard(kind)
        drawn.update_xaxes(row=row, col=col, **_x_axis(sorted({cost.width for cost in here})))
    drawn.update_xaxes(**AXIS)
    drawn.update_xaxes(title_text="width, channels", row=num_rows)
    drawn.update_yaxes(**AXIS, **_y_axis([value(cost) for cost in costs], log=log))
    drawn.update_yaxes(showticklabels=False)
    drawn.update_yaxes(title={"text": title, "standoff": 4}, showticklabels=True, col=1)
    return drawn.update_layout(legend={"y": 1, "yref": "container", "yanchor": "top", "xref": "container"})


def _panels(costs: Sequence[BlockCost]) -> dict[str, list[BlockCost]]:
    """Costs by stage; what is in no stage goes to the one beside it, whose width it has."""
    stages = [cost.stage for cost in costs if cost.stage != cost.kind]
    stage = stages[0] if stages else ""
    panels: dict[str, list[BlockCost]] = {}
    for cost in costs:
        stage = cost.stage if cost.stage != cost.kind else stage
        panels.setdefault(stage, []).append(cost)
    return panels


def _traces(costs: Sequence[BlockCost], value: Callable[[BlockCost], float], color: str) -> tuple[Any, Any]:
    """Of one kind: the band from the lowest to the highest value at each width, and a point a block."""
    import plotly.graph_objects as go

    widths = sorted({cost.width for cost in costs})
    ranges = [[value(cost) for cost in costs if cost.width == width] for width in widths]
    kind = escape(costs[0].kind)
    band = go.Scatter(
        x=[*widths, *reversed(widths)],
        y=[*map(max, ranges), *map(min, reversed(ranges))],
        mode="lines",
        fill="toself",
        opacity=0.5,
        line={"color": color, "width": 1.5},
        hoverinfo="skip",
        legendgroup=kind,
        showlegend=False,
    )
    points = go.Scatter(
        name=kind,
        legendgroup=kind,
        x=[cost.width for cost in costs],
        y=[value(cost) for cost in costs],
        customdata=[_hover(cost) for cost in costs],
        hovertemplate="%{customdata}<extra></extra>",
        mode="markers",
        marker={"color": color, "size": 7},
    )
    return band, points


def _hover(cost: BlockCost) -> str:
    median = "-" if cost.median_ms is None else f"{cost.median_ms:.4f} ms"
    per_mmac = "" if cost.ms_per_mmac is None else f", {cost.ms_per_mmac:.4f} ms per MMAC"
    return (
        f"<b>{escape(cost.key)}</b><br>{cost.min_ms:.4f} ms, median {median}<br>"
        f"{cost.macs / 1e6:,.3f} MMACs{per_mmac}<br>{cost.num_params:,} parameters"
    )


def _x_axis(widths: Sequence[int]) -> dict[str, Any]:
    """Ticks at the widths, and room for a stage of one width."""
    room = 0.08 * (widths[-1] - widths[0]) or 0.2 * widths[0]
    return {"tickvals": list(widths), "range": [widths[0] - room, widths[-1] + room]}


def _y_axis(values: Sequence[float], *, log: bool) -> dict[str, Any]:
    """The same for all panels: from 0, or logarithmic with a little room."""
    if not log:
        return {"range": [0, 1.05 * max(values)]}
    low, high = log10(min(values)), log10(max(values))
    room = 0.05 * (high - low) + 0.02
    return {**log_axis(values), "range": [low - room, high + room]}
