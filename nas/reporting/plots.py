"""The report's plots, as figures for Plotly's JavaScript, which reads HTML in texts: those from outside are escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from math import sqrt
from typing import Any

from nas.evaluation.intervals import interval, whiskers
from nas.objective.metrics import latency_metrics, shown
from nas.objective.precisions import precision_of
from nas.reporting.data import Artifacts, Group, Json
from nas.runs import WHOLE
from nas.runs.baselines import Baselines
from nas.searching.result import in_precisions, points_of
from nas.searching.winners import is_same
from search_spaces.command.page import BLUE, CYCLE, GRAY, GREEN, ORANGE, figure, log_axis


def curve(run: Artifacts, group: Group) -> Any:
    """MES against accuracy: trajectories, Pareto sets, winners; retrained winners and baselines on the test split.

    The names say which images an accuracy is of. Whiskers of what was picked or tested are 95 % intervals.
    """
    parts = [
        (name, precision, points, "trajectory" in search)
        for name, search in group.searches.items()
        for precision, points in in_precisions(points_of(search)).items()
    ]
    several = len(parts) > 1
    scores = [p["mes"] for _, _, points, _ in parts for p in points]
    num_searched, num_tested = run.num_searched(group), run.info.splits.test
    traces = []
    for i, (name, precision, points, is_path) in enumerate(parts):
        prefix = f"{escape(name)}, {precision}: " if several else ""
        what, mode = ("trajectory", "lines+markers") if is_path else ("evaluated", "markers")
        front = sorted((p for p in points if p["pareto"]), key=lambda p: p["mes"])
        path_color, front_color = (GRAY, BLUE) if not several else (CYCLE[i % len(CYCLE)],) * 2
        traces += [
            _points(f"{prefix}{what}", points, path_color, mode=mode, size=4, opacity=0.7),
            _points(f"{prefix}Pareto set", front, front_color, size=8),
        ]
    winners = list(group.winners.values())
    named = [w["name"] for w in winners]
    name = f"winners before training, {num_searched:,} search images"
    stars = _points(name, winners, ORANGE, mode="markers+text", text=named, size=14, symbol="star")
    stars.update(error_y=_whiskers(winners, num_searched), cliponaxis=False)
    traces.append(stars.update(text=_labels(winners), textposition=_sides(winners, sqrt(min(scores) * max(scores)))))
    tested = [
        {**_alone(group.networks[n]), "name": n, "accuracy": r["test_accuracy"]}
        for n, r in run.retrained.items()
        if n in group.networks and n != WHOLE
    ]
    if tested:
        name = f"winners retrained, {num_tested:,} test images"
        marks = _points(name, tested, GREEN, size=11, symbol="diamond", text=[w["name"] for w in tested])
        traces.append(marks.update(error_y=_whiskers(tested, num_tested)))
    if run.baselines and run.baselines.search in group.searches:
        traces += _baselines(run.baselines)
    return figure(traces, "MES (log scale, more is better)", f"{run.figure}, %", xaxis=log_axis(scores))


def _alone(network: Json) -> Json:
    """Without the interval of its figure on the search split."""
    return {name: value for name, value in network.items() if name != "accuracy_interval"}


def _labels(winners: Sequence[Json]) -> list[str]:
    """Their names; of two that are one network, which lie on each other, the first's."""
    return [
        "" if any(is_same(w, before) for before in winners[:i]) else escape(w["name"]) for i, w in enumerate(winners)
    ]


def _sides(winners: Sequence[Json], middle: float) -> list[str]:
    """Where the names stand: towards the middle, where there is room for them."""
    return ["bottom left" if winner["mes"] > middle else "bottom right" for winner in winners]


def _whiskers(points: Sequence[Json], count: int) -> Json:
    """Of accuracies on so many images, or as the intervals say that were found with the points."""
    return whiskers([(p["accuracy"], *p.get("accuracy_interval", interval(p["accuracy"], count))) for p in points])


def _baselines(found: Baselines) -> list[Any]:
    """What would have been picked without the search, tested as its retrained winners."""
    others = [n for n in found.networks if n.kind != "winner" and n.mes is not None]
    points = [{**asdict(n), "accuracy": n.accuracy.value, found.metric: n.latency_ms} for n in others]
    if not points:
        return []
    name = f"not from the search, {found.num_images:,} test images"
    marks = _points(name, points, GRAY, size=9, symbol="x", text=[n.name for n in others])
    ends = [(n.accuracy.value, n.accuracy.low, n.accuracy.high) for n in others]
    return [marks.update(error_y=whiskers(ends))]


def _points(
    name: str,
    points: Sequence[Json],
    color: str,
    *,
    mode: str = "markers",
    text: Sequence[str] | None = None,
    opacity: float = 1.0,
    **marker: Any,
) -> Any:
    import plotly.graph_objects as go

    labels = text or [_step(p) for p in points]
    return go.Scatter(
        name=name,
        x=[p["mes"] for p in points],
        y=[100 * p["accuracy"] for p in points],
        customdata=[_hover(label, p) for label, p in zip(labels, points, strict=True)],
        hovertemplate="%{customdata}<extra>" + name + "</extra>",
        mode=mode,
        opacity=opacity,
        marker={"color": color, **marker},
        line={"color": color, "width": 1},
    )


def _step(point: Json) -> str:
    if "action" not in point:
        return f"evaluation {point['step']}"
    action = point["action"]
    what = "largest network" if action is None else f"{action['choice']} {action['before']} → {action['after']}"
    return f"step {point['step']}: {what}"


def _hover(label: str, p: Json) -> str:
    latencies = ((shown(metric), p[metric]) for metric in latency_metrics(p))
    latency = "".join(f"{escape(metric.name)} {metric.text(value, '.3f')}<br>" for metric, value in latencies)
    return (
        f"<b>{escape(label)}</b><br>{precision_of(p)}<br>{100 * p['accuracy']:.2f} %<br>{latency}"
        f"{p['num_params'] / 1e6:.3f} M parameters<br>{p['macs'] / 1e6:.1f} M MACs<br>MES {p['mes']:.4g}"
    )


def calibration(groups: dict[str, Sequence[tuple[float, float]]], unit: str = "ms") -> Any:
    """Predicted against measured latency, (predicted, measured) pairs by the name of their group, and the diagonal."""
    import plotly.graph_objects as go

    values = [value for pairs in groups.values() for pair in pairs for value in pair]
    ends = [0.95 * min(values), 1.05 * max(values)]
    diagonal = go.Scatter(
        x=ends, y=ends, mode="lines", name="equal", line={"color": GRAY, "dash": "dot", "width": 1}, hoverinfo="skip"
    )
    traces = [
        go.Scatter(
            name=escape(name),
            x=[p for p, _ in pairs],
            y=[m for _, m in pairs],
            customdata=[100 * (p / m - 1) for p, m in pairs],
            hovertemplate="predicted %{x:.3f}, measured %{y:.3f} " + unit + " (%{customdata:+.1f} %)<extra></extra>",
            mode="markers",
            marker={"color": color, "size": 8},
        )
        for (name, pairs), color in zip(groups.items(), CYCLE, strict=False)
    ]
    return figure([diagonal, *traces], f"predicted, {unit}", f"measured, {unit}")


def lines(series: dict[str, tuple[Sequence[float], Sequence[float]]], y_title: str, *, log: bool = False) -> Any:
    """(epochs, values) by name; `log` asks for a logarithmic axis where all values are above 0."""
    import plotly.graph_objects as go

    traces = [
        go.Scatter(name=escape(name), x=x, y=y, mode="lines", line={"color": color, "width": 2})
        for (name, (x, y)), color in zip(series.items(), CYCLE * len(series), strict=False)
    ]
    values = [value for _, values in series.values() for value in values]
    y_axis = log_axis(values) if log and values and min(values) > 0 else {}
    return figure(traces, "epoch", y_title, yaxis=y_axis, showlegend=len(series) > 1)


def column(rows: Sequence[Mapping[str, Any]], name: str, factor: float = 1.0) -> tuple[list[float], list[float]]:
    """(epochs, values) of the lines of a metrics file that hold the metric."""
    held = [row for row in rows if row.get(name) is not None]
    return [row["epoch"] for row in held], [factor * row[name] for row in held]
