"""The page and the text of `nas.compare --winners`: families side by side, and which is best within which time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import cycle
from typing import Any

from nas.evaluation.intervals import whiskers
from nas.proving.reigns import Families, Network, Reign
from nas.reporting.drawing import numbers
from nas.runs.baselines import EQUAL, Difference
from search_spaces.command import align
from search_spaces.command.page import CYCLE, commands, embed, figure, html, joined, log_axis, page, table, warning

HEAD = (
    "Family",
    "Network",
    "Test accuracy, %\n95 % interval",
    "Latency, ms\nmeasured",
    "Parameters\nmillions",
    "MACs\nmillions",
    "Images\npx",
)


def as_text(found: Families) -> str:
    """The table and the sentences."""
    heads = [head.replace("\n", ", ") for head in HEAD]
    lines = [align([heads, *_rows(found.networks)], "<<" + ">" * (len(heads) - 2)), *sentences(found)]
    return "\n".join([*lines, *found.warnings])


def families_page(found: Families) -> str:
    """The whole document."""
    parts = [
        html("<h1>Families compared: {}</h1>\n", ", ".join(_families(found))),
        html("<ul>\n{}</ul>\n", joined(html("<li>{}</li>\n", sentence) for sentence in sentences(found))),
        embed("families", plot(found), ""),
        table(HEAD, _rows(found.networks), text=(0, 1), wide=True),
        *map(warning, found.warnings),
        html(
            '<p class="soft">Retrained winners, and the fine-tuned networks that runs began with, on the same {:,} '
            "test images. Latency: each network twice, in one interleaved run ({}); the mean of both. Two networks are "
            "told apart where the 95 % interval of their difference, bootstrapped over the same images, leaves out "
            "zero; of another family the best network stands beside one that takes at most {:.0f} % longer.</p>\n",
            found.num_images,
            found.runtime,
            100 * EQUAL,
        ),
        commands([found.command]),
    ]
    return page("Families compared", parts)


def sentences(found: Families) -> Iterator[str]:
    """Who is best from which time on, and beside whom."""
    networks = {network.key: network for network in found.networks}
    ends = [*(f"to {reign.from_ms:.3f}" for reign in found.reigns[1:]), "on"]
    for reign, end in zip(found.reigns, ends, strict=True):
        best = networks[f"{reign.family} {reign.network}"]
        first = f"From {reign.from_ms:.3f} ms {end}" + (" ms" if end != "on" else "")
        yield (
            f"{first}, {reign.family} is best: its {reign.network} has {100 * best.accuracy.value:.2f} % at "
            f"{best.latency_ms:.3f} ms, {_beside(reign)}."
        )


def _beside(reign: Reign) -> str:
    if not reign.rivals:
        return "and no other family has a network as fast"
    return "; ".join(_lead(rival) for rival in reign.rivals)


def _lead(difference: Difference) -> str:
    points = f"{100 * difference.value:.1f} points, 95 %: {100 * difference.low:.1f} to {100 * difference.high:.1f}"
    told = "better than" if difference.low > 0 else "worse than" if difference.high < 0 else "not told apart from"
    return f"{told} {difference.other} ({points})"


def _families(found: Families) -> list[str]:
    return list(dict.fromkeys(network.family for network in found.networks))


def _rows(networks: Sequence[Network]) -> list[list[str]]:
    accuracies = (network.accuracy for network in networks)
    columns = (
        [network.family for network in networks],
        [network.name for network in networks],
        [f"{100 * a.value:.2f} ({100 * a.low:.1f}–{100 * a.high:.1f})" for a in accuracies],
        [f"{n.latency_ms:.3f} ({min(n.sessions_ms):.3f}–{max(n.sessions_ms):.3f})" for n in networks],
        numbers([network.num_params / 1e6 for network in networks]),
        numbers([network.macs / 1e6 for network in networks]),
        [str(network.image_size) for network in networks],
    )
    return [list(row) for row in zip(*columns, strict=True)]


def plot(found: Families) -> Any:
    """Test accuracy against measured time, with 95 % intervals; a line through the front of each family."""
    import plotly.graph_objects as go

    traces = []
    for family, color in zip(_families(found), cycle(CYCLE), strict=False):
        members = [network for network in found.networks if network.family == family]
        front = [n for i, n in enumerate(members) if all(n.accuracy.value > m.accuracy.value for m in members[:i])]
        line = {"color": color, "width": 1, "shape": "hv"}
        traces.append(
            go.Scatter(**_at(front), mode="lines", line=line, hoverinfo="skip", legendgroup=family, showlegend=False)
        )
        names = [escape(network.name) for network in members]
        intervals = [(n.accuracy.value, n.accuracy.low, n.accuracy.high) for n in members]
        hover = "%{text}<br>%{x:.3f} ms, %{y:.2f} %<extra></extra>"
        traces.append(
            go.Scatter(
                **_at(members), name=escape(family), legendgroup=family, mode="markers", text=names,
                hovertemplate=hover, error_y=whiskers(intervals), marker={"color": color, "size": 9},
            )
        )  # fmt: skip
    times = log_axis([network.latency_ms for network in found.networks])
    heights = "accuracy on the test split, %"
    return figure(traces, "measured latency, ms (log scale)", heights, xaxis=times, showlegend=True)


def _at(networks: Sequence[Network]) -> dict[str, list[float]]:
    return {"x": [n.latency_ms for n in networks], "y": [100 * n.accuracy.value for n in networks]}
