"""The report's plots, as figures for Plotly's JavaScript, which reads HTML in texts: those from outside are escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from nas.objective.metrics import latency_metrics, shown
from nas.reporting.data import Artifacts, Group, Json
from nas.runs.baselines import Baselines
from nas.searching.result import points_of
from search_spaces.command.page import BLUE, CYCLE, GRAY, GREEN, ORANGE, figure, log_axis


def curve(run: Artifacts, group: Group) -> Any:
    """MES against accuracy: trajectories, Pareto sets, winners on the search split; retrained winners on the test."""
    several = len(group.searches) > 1
    scores = [p["mes"] for search in group.searches.values() for p in points_of(search)]
    traces = []
    for i, (name, search) in enumerate(group.searches.items()):
        prefix = f"{escape(name)}: " if several else ""
        points = points_of(search)
        what, mode = ("trajectory", "lines+markers") if "trajectory" in search else ("evaluated", "markers")
        front = sorted((p for p in points if p["pareto"]), key=lambda p: p["mes"])
        path_color, front_color = (GRAY, BLUE) if not several else (CYCLE[i % len(CYCLE)],) * 2
        traces += [
            _points(f"{prefix}{what}", points, path_color, mode=mode, size=4, opacity=0.7),
            _points(f"{prefix}Pareto set", front, front_color, size=8),
        ]
    winners = list(group.winners.values())
    named = [w["name"] for w in winners]
    stars = _points("winners", winners, ORANGE, mode="markers+text", text=named, size=14, symbol="star")
    traces.append(stars.update(text=[escape(name) for name in named], textposition="bottom center", cliponaxis=False))
    tested = [
        {**group.networks[n], "accuracy": r["test_accuracy"]} for n, r in run.retrained.items() if n in group.networks
    ]
    if tested:
        name = "retrained winners, test split"
        traces.append(_points(name, tested, GREEN, size=11, symbol="diamond", text=[w["name"] for w in tested]))
    if run.baselines and run.baselines.search in group.searches:
        traces += _baselines(run.baselines)
    return figure(traces, "MES (log scale, more is better)", "accuracy on the search split, %", xaxis=log_axis(scores))


def _baselines(found: Baselines) -> list[Any]:
    """What would have been picked without the search, tested as its retrained winners."""
    others = [n for n in found.networks if n.kind != "winner" and n.mes is not None]
    points = [{**asdict(n), "accuracy": n.accuracy.value, found.metric: n.latency_ms} for n in others]
    if not points:
        return []
    return [_points("baselines, test split", points, GRAY, size=9, symbol="x", text=[n.name for n in others])]


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
        f"<b>{escape(label)}</b><br>accuracy {100 * p['accuracy']:.2f} %<br>{latency}"
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
