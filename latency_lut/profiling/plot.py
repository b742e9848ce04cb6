"""The page of `latency_lut.profile`: time by kind of operator, or memory-bound work against blocks of a kind."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from latency_lut.profiling.report import KindTime, Profile, Report, Varied, findings
from search_spaces.command.page import BLUE, GRAY, ORANGE, embed, figure, html, page

BAR_HEIGHT, PANEL_HEIGHT = 36, 380  # pixels
Studied = tuple[Varied, Profile]


def document(report: Report) -> str:
    """The whole page: the plot, and below it what it shows as text."""
    plot = study_figure(report.studied) if report.studied else kind_figure(report.profiles[0].kinds)
    head = html('<h1>{}</h1>\n<p class="soft">{}</p>\n', report.title, report.runtime)
    return page(report.title, (head, embed("plot", plot), html("<pre>{}</pre>\n", findings(report))))


def kind_figure(rows: Sequence[KindTime]) -> Any:
    """A bar for each kind of operator, the slowest on top, with what profiling adds to it behind."""
    import plotly.graph_objects as go

    def bars(name: str, some: Sequence[KindTime], color: str, overhead: bool = False) -> Any:
        return go.Bar(
            name=name,
            orientation="h",
            x=[row.ms - row.corrected_ms if overhead else row.corrected_ms for row in some],
            y=[row.kind for row in some],
            marker={"color": color, "opacity": 0.4 if overhead else 1.0},
            text=[f" {row.share:.1%}" for row in some] if overhead else None,
            textposition="outside",
            cliponaxis=False,
            customdata=[_hover(row) for row in some],
            hovertemplate="%{customdata}<extra></extra>",
        )

    traces = [
        bars("memory-bound", [row for row in rows if row.memory_bound], ORANGE),
        bars("other work", [row for row in rows if not row.memory_bound], BLUE),
        bars("overhead of profiling", rows, GRAY, overhead=True),
    ]
    plot = figure(traces, barmode="stack", bargap=0.3, height=BAR_HEIGHT * len(rows) + 110)
    plot.update_yaxes(categoryorder="array", categoryarray=[row.kind for row in reversed(rows)], showgrid=False)
    # Room for the text behind the longest bar.
    plot.update_xaxes(title_text="ms in one run", range=[0, 1.25 * max(row.ms for row in rows)])
    return plot.update_layout(legend_traceorder="normal")


def _hover(row: KindTime) -> str:
    return (
        f"<b>{escape(row.kind)}</b>, {row.operators} operators<br>{row.ms:.4f} ms, {row.share:.1%} of all<br>"
        f"{row.corrected_ms:.4f} ms, {row.corrected_share:.1%} without the overhead of profiling"
    )


def study_figure(studied: Sequence[Studied]) -> Any:
    """Time in memory-bound operators, and its share, against the number of blocks of the kind that is varied."""
    kind = studied[0][0].kind
    series = [(varied, p) for varied, p in studied if not varied.random]
    others = [(varied, p) for varied, p in studied if varied.random]
    traces = []
    for name, some, color, mode in (
        (f"largest network with fewer and fewer {kind} blocks", series, BLUE, "lines+markers"),
        ("random networks", others, ORANGE, "markers"),
    ):
        if some:
            traces += [
                _points(name, some, [p.memory_bound.corrected_ms for _, p in some], color, mode, axis=""),
                _points(name, some, [100 * p.memory_bound.corrected_share for _, p in some], color, mode, axis="2"),
            ]
    plot = figure(traces, height=PANEL_HEIGHT)
    axis = plot.layout.xaxis.to_plotly_json()
    most = max(varied.blocks for varied, _ in studied)
    blocks = {**axis, "title_text": f"{kind} blocks", "range": [-0.05 * most - 0.2, 1.05 * most + 0.2]}
    blocks |= {"tickformat": "d"} | ({"dtick": 1} if most <= 12 else {})
    return plot.update_layout(
        xaxis={**blocks, "domain": [0, 0.45]},
        xaxis2={**blocks, "domain": [0.55, 1], "anchor": "y2"},
        yaxis={**axis, "title_text": "memory-bound, ms", "rangemode": "tozero"},
        yaxis2={**axis, "title_text": "memory-bound, % of all operators", "rangemode": "tozero", "anchor": "x2"},
    )


def _points(name: str, studied: Sequence[Studied], y: Sequence[float], color: str, mode: str, axis: str) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        name=name,
        legendgroup=name,
        showlegend=not axis,
        x=[varied.blocks for varied, _ in studied],
        y=y,
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
        mode=mode,
        marker={"color": color, "size": 8},
        line={"color": color, "width": 2},
        customdata=[_network_hover(varied, p) for varied, p in studied],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _network_hover(varied: Varied, profile: Profile) -> str:
    memory = profile.memory_bound
    return (
        f"<b>{escape(profile.network.name)}</b>, {varied.blocks} {varied.kind} blocks<br>"
        f"{profile.network_ms:.4f} ms<br>memory-bound {memory.corrected_ms:.4f} ms, {memory.corrected_share:.1%}<br>"
        f"as reported {memory.ms:.4f} ms, {memory.share:.1%}"
    )
