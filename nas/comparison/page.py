"""The page of `nas.compare`: hypervolume over evaluations and time, the fronts, and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import Any

import numpy as np

from nas.comparison.data import Json
from nas.comparison.groups import Group
from nas.comparison.tables import Table
from nas.evaluation.intervals import error_bars
from nas.objective.hypervolume import Progress
from nas.objective.metrics import latency_metrics, shown
from search_spaces.command.page import CYCLE, Markup, embed, figure, html, log_axis, page, table

RED = "#d1455f"
HYPERVOLUME = (
    "Hypervolume: how much of accuracy and efficiency a search has covered so far, in one figure; the higher, and the "
    "sooner, the better. "
)
BAND = (
    "A line is the mean of a search’s seeds, its band their least and most. "
    "The plot begins at the height that the lowest of them has after a tenth of its search."
)
FRONTS = (
    "Pareto fronts: networks that no other one of their search beats in both. Accuracies are of {count:,} search "
    "images, with the supernet’s weights, and whiskers their 95 % intervals. The best of many is flattered by chance, "
    "so that an accuracy on a front is more likely too high than too low."
)
MINUTES = "Time is what each search recorded, on the machine and with the workers that it had."


def compare_page(groups: Sequence[Group], tables: Sequence[Table], points: Sequence[Json]) -> str:
    """The whole document.

    Args:
        points: other networks to show by the fronts.
    """
    title = f"Searches compared: {', '.join(dict.fromkeys(group.searches[0].strategy for group in groups))}"
    summary, *others = tables
    timed = [group for group in groups if group.over_minutes]
    parts = [
        html("<h1>{}</h1>\n", title),
        _table(summary),
        html('<h2>How much the searches found</h2>\n<p class="soft">{}{}</p>\n', HYPERVOLUME, BAND),
        embed("evaluations", progress_figure([(g.label, g.over_evaluations) for g in groups], "evaluations"), ""),
    ]
    if timed:
        parts.append(html('<p class="soft">{}</p>\n', MINUTES))
        over_time = progress_figure([(g.label, g.over_minutes) for g in groups], "minutes")
        parts.append(embed("minutes", over_time, ""))
    count = groups[0].searches[0].identity["number of search images"]
    parts += [
        html("<h2>The best trade-offs that each found</h2>\n"),
        embed("fronts", fronts_figure(groups, points), ""),
        html('<p class="soft">{}</p>\n', FRONTS.format(count=count)),
    ]
    parts += [html("<h2>{}</h2>\n{}", t.title, _table(t)) for t in others]
    parts.append(html("<h2>The searches</h2>\n{}", _members(groups)))
    return page(title, parts)


def _table(t: Table) -> Markup:
    return html('{}<p class="soft">{}</p>\n', table(t.head, t.rows), t.note)


def _members(groups: Sequence[Group]) -> Markup:
    rows = [
        [group.label, str(search.folder), "–" if search.seed is None else str(search.seed), f"{over.final:.4f}"]
        for group in groups
        for search, over in zip(group.searches, group.over_evaluations, strict=True)
    ]
    return table(["search", "folder", "seed", "hypervolume"], rows, text=(0, 1))


def progress_figure(groups: Sequence[tuple[str, Sequence[Progress]]], unit: str) -> Any:
    """Mean hypervolume of each group's searches, by its label, over what was spent; a group without any has no line."""
    import plotly.graph_objects as go

    traces, early = [], []
    for (label, progress), color in zip(groups, cycle(CYCLE), strict=False):
        if not progress:
            continue
        early += [p.at(p.spent[:1] + (p.spent[-1] - p.spent[0]) / 10)[0] for p in progress]
        start = max(p.spent[0] for p in progress)  # from where on all of them have a value
        spent = np.unique(np.concatenate([[start], *(p.steps for p in progress)]))
        spent = spent[spent >= start]
        values = np.array([p.at(spent) for p in progress])
        line = {"color": color, "width": 2, "shape": "hv"}
        if len(progress) > 1:
            edge = {"x": spent, "mode": "lines", "line": {**line, "width": 0}, "hoverinfo": "skip", "showlegend": False}
            traces.append(go.Scatter(y=values.min(axis=0), legendgroup=label, **edge))
            band = {"fill": "tonexty", "fillcolor": _clear(color)}
            traces.append(go.Scatter(y=values.max(axis=0), legendgroup=label, **edge, **band))
        name = escape(label)
        hover = f"{name}<br>%{{x:,.4~g}} {unit}: %{{y:.4f}}<extra></extra>"
        mean = values.mean(axis=0)
        traces.append(
            go.Scatter(name=name, legendgroup=label, x=spent, y=mean, mode="lines", line=line, hovertemplate=hover)
        )
    top = max(p.final for _, progress in groups for p in progress)
    low = min(early) - 0.02 * (top - min(early))
    heights = {"range": [low, top + 0.05 * (top - low)]} if top > low else {}
    return figure(traces, unit, "hypervolume", yaxis=heights, showlegend=True)


def fronts_figure(groups: Sequence[Group], points: Sequence[Json]) -> Any:
    """The front of every search in its group's colour, MES against accuracy, and the other points with their names."""
    traces = []
    for group, color in zip(groups, cycle(CYCLE), strict=False):
        for i, (search, front) in enumerate(zip(group.searches, group.fronts, strict=True)):
            trace = _scatter(escape(group.label), front, [str(search.folder)] * len(front))
            trace.update(marker={"color": color, "size": 6}, line={"color": color, "width": 1, "shape": "vh"})
            count = search.identity["number of search images"]
            trace.update(error_y=error_bars([(p["accuracy"], count) for p in front]) | {"color": _clear(color, 0.5)})
            traces.append(trace.update(mode="lines+markers", legendgroup=group.label, showlegend=i == 0))
    if points:
        labels = [str(p["label"]) for p in points]
        named = _scatter("other networks", points, labels).update(
            marker={"color": RED, "size": 11, "symbol": "diamond"}
        )
        text = [escape(label) for label in labels]
        traces.append(named.update(mode="markers+text", text=text, textposition="top center", cliponaxis=False))
    scores = [mes for trace in traces for mes in trace.x]
    return figure(traces, "MES (log scale, more is better)", "accuracy, %", xaxis=log_axis(scores), showlegend=True)


def _scatter(name: str, points: Sequence[Json], labels: Sequence[str]) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        name=name,
        x=[p["mes"] for p in points],
        y=[100 * p["accuracy"] for p in points],
        customdata=[_hover(label, p) for label, p in zip(labels, points, strict=True)],
        hovertemplate="%{customdata}<extra>" + name + "</extra>",
    )


def _hover(label: str, p: Json) -> str:
    lines = [f"<b>{escape(label)}</b>", f"accuracy {100 * p['accuracy']:.2f} %"]
    metrics = [metric for metric in (*latency_metrics(p), "num_params", "memory_mb") if p.get(metric) is not None]
    lines += [f"{escape(shown(metric).name)} {shown(metric).text(p[metric], '.3f')}" for metric in metrics]
    return "<br>".join([*lines, f"MES {p['mes']:.4g}"])


def _clear(color: str, opacity: float = 0.18) -> str:
    """A `#rrggbb` colour that lets others show through."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:g})"
