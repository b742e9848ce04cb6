"""The page of `latency_lut.profile`: time by kind of operator, or memory-bound work against blocks of a kind."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from latency_lut.profiling.report import BUSY, KindTime, Profile, Report, Table, Varied, conclusions, tables
from search_spaces.command.page import BLUE, GRAY, ORANGE, Markup, embed, figure, html, joined, page, table, warning

BAR_HEIGHT = 36  # pixels
Studied = tuple[Varied, Profile]


def document(report: Report) -> str:
    """The whole page: the plot, and below it what it shows as tables, and what may be concluded."""
    head = html('<h1>{}</h1>\n<p class="soft">{}</p>\n', report.title, report.runtime)
    plots = _study_plots(report.studied) if report.studied else embed("plot", kind_figure(report.profiles[0].kinds))
    said = joined(html("<p>{}</p>\n", sentence) for sentence in conclusions(report))
    busy = [warning(BUSY)] if report.busy else []
    return page(report.title, (head, plots, said, *busy, *map(_table, tables(report))))


def _table(t: Table) -> Markup:
    words = [i for i, side in enumerate(t.sides) if side == "<"]
    title = [html("<h2>{}</h2>\n", t.title[0].upper() + t.title[1:])] if t.title else []
    return joined([*title, table(t.head, t.rows, text=words)])


def _study_plots(studied: Sequence[Studied]) -> Markup:
    times, shares = (study_figure(studied, share) for share in (False, True))
    return html(
        '<div class="pair">\n{}{}</div>\n', _half(embed("time", times, "low")), _half(embed("share", shares, "low"))
    )


def _half(plot: Markup) -> Markup:
    return html("<div>{}</div>\n", plot)


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
    plot.update_xaxes(title_text="ms in one run", range=[0, 1.4 * max(row.ms for row in rows)])
    return plot.update_layout(legend_traceorder="normal")


def _hover(row: KindTime) -> str:
    return (
        f"<b>{escape(row.kind)}</b>, {row.operators} operators<br>{row.ms:.4f} ms, {row.share:.1%} of all<br>"
        f"{row.corrected_ms:.4f} ms, {row.corrected_share:.1%} without the overhead of profiling"
    )


def study_figure(studied: Sequence[Studied], share: bool) -> Any:
    """Time in memory-bound operators, or its share, against the number of blocks of the kind that is varied."""
    kind = studied[0][0].kind
    series = [(varied, p) for varied, p in studied if not varied.random]
    others = [(varied, p) for varied, p in studied if varied.random]
    named = (
        (f"largest network with fewer and fewer {kind} blocks", series, BLUE, "lines+markers"),
        ("random networks", others, ORANGE, "markers"),
    )
    traces = [_points(name, some, color, mode, share) for name, some, color, mode in named if some]
    most = max(varied.blocks for varied, _ in studied)
    axis = {"range": [-0.05 * most - 0.2, 1.05 * most + 0.2], "tickformat": "d"} | ({"dtick": 1} if most <= 12 else {})
    y_title = "memory-bound, % of the time of all operators" if share else "memory-bound, ms"
    return figure(traces, f"{kind} blocks", y_title, xaxis=axis, yaxis={"rangemode": "tozero"}, showlegend=True)


def _points(name: str, studied: Sequence[Studied], color: str, mode: str, share: bool) -> Any:
    import plotly.graph_objects as go

    bound = [p.memory_bound for _, p in studied]
    return go.Scatter(
        name=escape(name),
        x=[varied.blocks for varied, _ in studied],
        y=[100 * memory.corrected_share if share else memory.corrected_ms for memory in bound],
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
