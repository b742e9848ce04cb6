"""The ablations for readers: Markdown, and a page with the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nas.evaluation.intervals import error_bars, with_interval
from nas.objective.mes import Objective
from nas.objective.metrics import LATENCY
from search_spaces.command.page import BLUE, GRAY, ORANGE, commands, embed, figure, html, log_axis, page, table

Json = Mapping[str, Any]

COLORS = {"joint": BLUE, "depth and width": ORANGE}
NOTE_5 = (
    "Networks with about as many parameters as the joint search's. Latencies are measured, in one interleaved run. "
    "Accuracy on the test split with the supernet's weights, norms recalibrated."
)
NOTE_6 = "Of each search the network with the nearest number of parameters; latencies from the table."
FIGURE_1 = (
    "Fig. 1: accuracy on the search split against MES along the joint search and that of depth and width alone. "
    "Whiskers: 95 % intervals."
)
FIGURE_2 = (
    "Fig. 2: random networks, accuracy on the test split, under the networks of the joint search. Whiskers: 95 % "
    "intervals."
)
JOINT = "Joint: slimming (the published search) that may take away anything, beside searches that may take less."
INTERVALS = "In brackets: 95 % intervals, of {} test images. A block of rows for each size of network."


def table_5(result: Json) -> tuple[list[str], list[list[str]]]:
    """Heading and rows."""
    retrained = "retrained" in result["table5"][0]
    head = ["method", "parameters, M", "latency, ms", "MES", "accuracy, %", *(["retrained, %"] if retrained else [])]
    rows = [
        [
            row["method"],
            f"{row['num_params'] / 1e6:.3f}",
            f"{row[LATENCY]:.3f}",
            f"{row['mes']:.4g}",
            _percent(row["accuracy"], result),
            *([_percent(row["retrained"], result)] if retrained else []),
        ]
        for row in result["table5"]
    ]
    return head, rows


def table_6(result: Json) -> tuple[list[str], list[list[str]]]:
    """Heading and rows."""
    rows = [
        [
            "{:g}, {:g}".format(*row["alphas"]),
            f"{row['num_params'] / 1e6:.3f}",
            f"{row[LATENCY]:.3f}",
            _percent(row["accuracy"], result),
        ]
        for row in result["table6"]
    ]
    return ["α of latency, of size", "parameters, M", "latency, ms", "accuracy, %"], rows


def _percent(accuracy: float, result: Json) -> str:
    """With its interval, without the sign, which the heading has."""
    return with_interval(accuracy, result["num_images"]["test"], decimals=1).replace(" %", "")


def markdown(result: Json) -> str:
    """Both tables, for docs."""
    parts = []
    for name, (head, rows) in {"Table 5": table_5(result), "Table 6": table_6(result)}.items():
        lines = [head, ["---"] * len(head), *rows]
        parts.append(f"{name}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def ablations_page(result: Json) -> str:
    told = f"{result['space']}; MES is {_formula(result)}. {JOINT} {INTERVALS.format(result['num_images']['test'])}"
    parts = [html("<h1>Ablations of the search</h1>\n<p>{}</p>\n", told)]
    for name, (head, rows), note in (("Table 5", table_5(result), NOTE_5), ("Table 6", table_6(result), NOTE_6)):
        parts.append(html("<h2>{}</h2>\n{}<p>{}</p>\n", name, table(head, rows), note))
    for name, drawn, note in (("mes", figure_1(result), FIGURE_1), ("random", figure_2(result), FIGURE_2)):
        parts.append(html("{}<p>{}</p>\n", embed(name, drawn, ""), note))
    parts.append(html("<h2>Command</h2>\n{}", commands([result["command"]])))
    return page("Ablations of the search", parts)


def _formula(result: Json) -> str:
    return Objective.from_json(result["objective"]).formula


def figure_1(result: Json) -> Any:
    count = result["num_images"]["search"]
    traces = [_line(name, points, lambda p: p["mes"], COLORS[name], count) for name, points in result["curves"].items()]
    every = [p["mes"] for points in result["curves"].values() for p in points]
    return figure(traces, "MES", "accuracy, %").update_xaxes(**log_axis(every))


def figure_2(result: Json) -> Any:
    searched = [row for row in result["table5"] if row["method"] == "joint"]
    tabled = {i: level[LATENCY] for i, level in enumerate(result["levels"])}
    curve = [{**row, LATENCY: tabled[row["level"]]} for row in searched]
    count = result["num_images"]["test"]
    traces = [
        _line("joint", curve, lambda p: p[LATENCY], BLUE, count),
        _line("random", result["random"], lambda p: p[LATENCY], GRAY, count, mode="markers"),
    ]
    return figure(traces, "latency, ms", "accuracy, %")


def _line(
    name: str, points: Sequence[Json], x: Callable[[Json], float], color: str, count: int, mode: str = "lines+markers"
) -> Any:
    """Accuracies of so many images, with whiskers."""
    import plotly.graph_objects as go

    return go.Scatter(
        name=name,
        x=[x(p) for p in points],
        y=[100 * p["accuracy"] for p in points],
        mode=mode,
        line={"color": color},
        marker={"color": color, "size": 5},
        error_y=error_bars([(p["accuracy"], count) for p in points]),
    )
