"""The page of `nas.evaluate`: accuracy of each class, and what is taken for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import cycle
from math import ceil
from typing import Any

import numpy as np

from nas.evaluation.confusion_plot import (
    MAX_CLASSES,
    MOST,
    class_ticks,
    confusion_matrix,
    mistakes,
    short,
    worst_share,
)
from nas.evaluation.intervals import whiskers
from nas.inspection.text import Json, origin, percent, worst_first
from nas.objective.metrics import latency_metrics, shown
from search_spaces.command.page import (
    CYCLE,
    ORANGE,
    Markup,
    commands,
    embed,
    figure,
    html,
    joined,
    page,
    table,
    warning,
)

NOTE = (
    "Brackets and whiskers are 95 % intervals (Wilson’s): chance in the choice of images alone moves an accuracy that "
    "far. All networks see the same images, so the difference between two of them is surer than each of them."
)
MATRIX_NOTE = (
    "Shares of the images of each row’s class, in %. Blue: right. Orange: taken for another class, "
    "in one scale for all networks."
)
BARS_NOTE = f"The {MOST} mistakes that are most frequent."
EXAMPLES_NOTE = (
    "As the network sees them, evenly spaced over the images and chosen by nothing else; in brackets how sure it was."
)
STYLE = """
.photos { display: flex; flex-wrap: wrap; gap: 10px; margin: 8px 0; }
.photos figure { margin: 0; width: 104px; }
.photos img { width: 104px; height: 104px; image-rendering: pixelated; border-radius: 4px; display: block; }
.photos figcaption { line-height: 1.3; margin-top: 3px; overflow-wrap: anywhere; }
"""


def evaluation_page(result: Json) -> str:
    """The whole document.

    Args:
        result: what `nas.evaluate` writes as JSON.
    """
    return page(f"{result['run']}: {_names(result)}", [*_summary(result), *closer_look(result)], style=STYLE)


def closer_look(result: Json, of: str = "") -> Iterator[Markup]:
    """Class by class: how accurate, what is taken for what, and images that were classified right and wrong.

    Args:
        of: what is looked at, where the page has not said it.
    """
    yield html("<h2>Accuracy of each class</h2>\n")
    if of:
        yield html('<p class="soft">{}</p>\n', of)
    for section in (_classes, _mistakes, _examples):
        yield from section(result)


def _names(result: Json) -> str:
    return ", ".join(network["name"] for network in result["networks"])


def _summary(result: Json) -> Iterator[Markup]:
    yield html("<h1>{}: {}</h1>\n", result["run"], _names(result))
    yield html('<p class="soft">{}</p>\n', origin(result))
    latencies = latency_metrics(result["tables"])
    head = [*_COLUMNS, *(f"{shown(m).title.capitalize()}\npredicted" for m in latencies), *_COSTS]
    yield table(head, [_row(network, latencies) for network in result["networks"]], text=(0, 1, 2), wide=True)
    yield from map(warning, result["table_warnings"])
    yield html('<p class="soft">{}</p>\n{}', NOTE, commands([result["command"]]))


def _classes(result: Json) -> Iterator[Markup]:
    names, networks = result["classes"], result["networks"]
    if len(names) > MAX_CLASSES:
        yield html('<p class="soft">The {} classes that {} knows least.</p>\n', MOST, networks[0]["name"])
    yield embed("classes", class_bars(result))
    rows = [
        [name, f"{size:,}", *(percent(network["per_class"][i]) for network in networks)]
        for i, (name, size) in enumerate(zip(names, result["class_sizes"], strict=True))
    ]
    head = ["Class", "Images", *(network["name"] for network in networks)]
    yield html("<details><summary>All {} classes</summary>\n{}</details>\n", len(names), table(head, rows))


def _mistakes(result: Json) -> Iterator[Markup]:
    names, counts = result["classes"], [np.array(network["confusion"]) for network in result["networks"]]
    matrix = len(names) <= MAX_CLASSES
    top = max(map(worst_share, counts))
    note = MATRIX_NOTE if matrix else BARS_NOTE
    yield html('<h2>What is taken for what</h2>\n<p class="soft">{}</p>\n', note)
    for i, (network, count) in enumerate(zip(result["networks"], counts, strict=True)):
        yield html("<h3>{}</h3>\n", network["name"])
        yield embed(
            f"mistakes-{i}", confusion_matrix(names, count, top, "images") if matrix else mistake_bars(names, count)
        )


def _examples(result: Json) -> Iterator[Markup]:
    yield html('<h2>Images that were classified right and wrong</h2>\n<p class="soft">{}</p>\n', EXAMPLES_NOTE)
    for network in result["networks"]:
        for kind in ("right", "wrong"):
            if network[kind]:
                yield html("<h3>{}: {}</h3>\n", network["name"], kind)
                photos = joined(_photo(result["classes"], example) for example in network[kind])
                yield html('<div class="photos">\n{}</div>\n', photos)


def _photo(classes: Sequence[str], example: Json) -> Markup:
    label, answer = classes[example["label"]], classes[example["answer"]]
    said = label if label == answer else f"{label}, taken for {answer}"
    return html(
        '<figure><img src="data:image/jpeg;base64,{}" alt="{}"><figcaption>{} ({:.0f} %)</figcaption></figure>\n',
        example["jpeg"],
        label,
        said,
        100 * example["chance"],
    )


_COLUMNS = (
    "Network",
    "Weights",
    "Precision",
    "Top-1\naccuracy",
    "Top-5\naccuracy",
    "Mean of classes\naccuracy",
)
_COSTS = ("Parameters\nmillions", "MACs\nmillions", "Memory\nMB", "MES")


def _row(network: Json, latencies: Sequence[str]) -> list[str]:
    return [
        network["name"],
        network["weights"],
        network["precision"],
        *(percent(network[name]).replace(" (", "\n(") for name in ("top1", "top5", "mean_per_class")),
        *(f"{network[metric]:.3f}" for metric in latencies),
        f"{network['num_params'] / 1e6:.3f}",
        f"{network['macs'] / 1e6:.2f}",
        f"{network['memory_mb']:.3f}",
        f"{network['mes']:.4g}" if "mes" in network else "–",
    ]


def class_bars(result: Json) -> Any:
    """A bar for each class and network with its interval, the first network's worst class at the top."""
    import plotly.graph_objects as go

    networks, names = result["networks"], result["classes"]
    shown = worst_first(networks[0]["per_class"])
    shown = shown[:MOST] if len(names) > MAX_CLASSES else shown
    traces = []
    for network, color in zip(networks, cycle(CYCLE), strict=False):
        found = [network["per_class"][i] for i in shown]
        bars = whiskers([(a["value"], a["low"], a["high"]) for a in found])
        traces.append(
            go.Bar(
                name=escape(network["name"]),
                orientation="h",
                y=list(range(len(shown))),
                x=[100 * a["value"] for a in found],
                error_x=bars | {"color": color, "thickness": 1.5},
                customdata=[
                    f"{escape(names[i])}: {percent(a)} of {result['class_sizes'][i]:,} images"
                    for i, a in zip(shown, found, strict=True)
                ],
                hovertemplate="%{customdata}<extra>" + escape(network["name"]) + "</extra>",
                marker={"color": color, "opacity": 0.5},
            )
        )
    height = 90 + len(shown) * (10 + 12 * len(networks))
    ticks = class_ticks([short(names[i]) for i in shown])
    return figure(
        traces,
        "accuracy, %",
        height=height,
        yaxis={**ticks, "range": [len(shown) - 0.4, -0.6]},
        xaxis={"range": [0, 100.5]},
        barmode="group",
        bargap=0.3,
        showlegend=len(networks) > 1,
        legend={"y": 1, "yref": "container", "yanchor": "top"},
    )


def mistake_bars(names: Sequence[str], counts: np.ndarray) -> Any:
    """A bar for each of the most frequent mistakes."""
    import plotly.graph_objects as go

    found = mistakes(counts)
    sizes = counts.sum(axis=1)
    bars = go.Bar(
        orientation="h",
        y=list(range(len(found))),
        x=[images for _, _, images in found],
        customdata=[
            f"{escape(names[a])} taken for {escape(names[b])}<br>{images:,} of {sizes[a]:,} images"
            for a, b, images in found
        ],
        hovertemplate="%{customdata}<extra></extra>",
        marker={"color": ORANGE},
    )
    ticks = class_ticks([f"{short(names[a])} → {short(names[b])}" for a, b, _ in found])
    most = max((images for _, _, images in found), default=1)
    return figure(
        [bars],
        "images",
        height=90 + 20 * len(found),
        xaxis={"dtick": ceil(most / 10)},
        yaxis={**ticks, "range": [len(found) - 0.4, -0.6]},
    )
