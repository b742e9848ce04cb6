"""What the report shows of baselines: what its user would have picked without the search."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from nas.evaluation.intervals import whiskers
from nas.reporting.data import Artifacts
from nas.reporting.verdict import HEAD, KINDS, rows, rule, sentences, verdict
from nas.runs.baselines import Baselines, Network
from search_spaces.command.page import BLUE, GRAY, GREEN, ORANGE, Markup, embed, figure, html, joined, table, warning

COLORS = {"winner": ORANGE, "whole": GRAY, "narrowed": BLUE, "pruned": GREEN}
SYMBOLS = {"winner": "star", "whole": "square", "narrowed": "circle", "pruned": "diamond"}


def baselines(a: Artifacts) -> Iterator[Markup]:
    """The section, if there are any."""
    found = a.baselines
    if found is None:
        return
    yield html("<h2>What you would have picked instead</h2>\n<p><strong>{}</strong></p>\n", verdict(found))
    yield html("<ul>\n{}</ul>\n", joined(html("<li>{}</li>\n", sentence) for sentence in sentences(found)))
    yield embed("baselines", plot(found), "low")
    yield table(HEAD, rows(found), text=(0, 1), wide=True)
    yield from map(warning, a.baselines_warnings)
    yield html(
        '<p class="soft">{:,} test images, the same for all networks. Latency: each network twice, in one interleaved '
        "run ({}); the mean of both, and both. Narrowed: the largest network with all its sizes at one share of their "
        "own, to the winner’s time by the table of {}, trained as the winner was. Pruned: the fine-tuned network, to "
        "the winner’s measured time, and fine-tuned as long.</p>\n"
        '<p class="soft">{}</p>\n',
        found.num_images,
        found.runtime,
        found.search,
        rule(found),
    )


def plot(found: Baselines) -> Any:
    """Test accuracy against measured time, with 95 % intervals."""
    by_kind = ((kind, [n for n in found.networks if n.kind == kind]) for kind in KINDS)
    middle_ms = max(network.latency_ms for network in found.networks) / 2
    traces = [_trace(kind, networks, middle_ms) for kind, networks in by_kind if networks]
    return figure(
        traces,
        "measured latency, ms",
        "accuracy on the test split, %, and 95 % intervals",
        xaxis={"rangemode": "tozero"},
    )


def _trace(kind: str, networks: list[Network], middle_ms: float) -> Any:
    """Names stand towards the middle, where there is room for them."""
    import plotly.graph_objects as go

    accuracies = [network.accuracy for network in networks]
    return go.Scatter(
        name=KINDS[kind],
        x=[network.latency_ms for network in networks],
        y=[100 * accuracy.value for accuracy in accuracies],
        error_y=whiskers([(a.value, a.low, a.high) for a in accuracies]),
        mode="markers+text" if kind == "winner" else "markers",
        text=[escape(network.name) for network in networks],
        textposition=["top left" if n.latency_ms > middle_ms else "top right" for n in networks],
        cliponaxis=False,
        hovertemplate="%{text}<br>%{x:.3f} ms, %{y:.2f} %<extra></extra>",
        marker={"color": COLORS[kind], "symbol": SYMBOLS[kind], "size": 11},
    )
