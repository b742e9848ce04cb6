"""A ranking study's result for readers: text, Markdown, and a page with the scatter of the supplement's Fig. 3."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from nas.evaluation.intervals import error_bars
from scripts.ranking.networks import BAND
from scripts.ranking.supernets import AS_TRAINED, RECALIBRATED
from search_spaces.command import align
from search_spaces.command.page import BLUE, GRAY, ORANGE, Markup, embed, figure, html, joined, page, table

Json = Mapping[str, Any]

# name of the statistic, heading, its second line, factor, digits
COLUMNS = (
    ("r2", "r²", "Pearson", 1, 2),
    ("spearman", "ρ", "Spearman", 1, 2),
    ("kendall", "τ", "Kendall", 1, 2),
    ("regret_1", "regret 1", "points", 100, 1),
    ("regret_3", "regret 3", "points", 100, 1),
    ("gap", "mean gap", "points", 100, 1),
    ("smallest_gap", "smallest gap", "points", 100, 1),
)
SCATTER_NOTE = (
    "A point is a network: accuracy on the test split inherited from the supernet, against trained from scratch "
    "(mean, and the span of the seeds). Upright whiskers: 95 % intervals. Dotted: equal."
)
NAMES = tuple(name for name, *_ in COLUMNS)
WITHOUT = "without the extremes"
SUBSETS = {"all": "All networks", "without_extremes": WITHOUT.capitalize()}
COLORS = {AS_TRAINED: BLUE, RECALIBRATED: ORANGE}
STYLE = "main { max-width: 1480px; }"

NOTES = (
    "[a, b]: 95 % of 2000 bootstrap resamples of the networks. (r < 0): the order is reversed.",
    "Regret k: the best accuracy from scratch, less the best of the k networks that the row ranks highest.",
    "Gap: from scratch less inherited. Regrets and gaps are in points of accuracy.",
)
CEILING_NOTE = "Ceiling: what a predictor without error reaches, as trainings are noisy (Spearman-Brown, Greiner)"


# ---- rows


def rows(result: Json, subset: str, intervals: Sequence[str]) -> list[list[str]]:
    """What limits the arms, the arms, and what needs no supernet: a label and the statistics; of all also bars missed.

    Args:
        subset: "all", or "without_extremes", which has no smallest gap.
        intervals: statistics to show with theirs.
    """
    noise = result["noise"]
    found = [_bars(result["bars"], subset)]
    if noise:
        label = f"ceiling, mean of {result['num_seeds']} trainings"
        found.append(_row(label, noise["ceiling"][subset], subset, intervals))
        found.append(_row("one training by another", noise["one_by_another"][subset], subset, intervals))
    for arm in result["arms"]:
        for norms, entry in arm["norms"].items():
            label, statistics = f"{arm['label']}, {norms}", entry["statistics"]
            cells = {**statistics[subset], "smallest_gap": statistics["smallest_gap"]}
            found.append(_row(label, cells, subset, intervals, ", ".join(entry["missed"]) or "none"))
    found += [_row(name, s[subset], subset, intervals) for name, s in result["baselines"].items()]
    return found


def _bars(bars: Json, subset: str) -> list[str]:
    limits = {"r2": f"≥ {bars['r2']}", "kendall": f"≥ {bars['kendall']}"}
    if "smallest_gap" in bars:
        limits["smallest_gap"] = f"≤ {100 * bars['smallest_gap']:g}"
    return ["bars", *(limits.get(name, "") for name, *_ in _columns(subset)), *([""] if subset == "all" else [])]


def _columns(subset: str) -> tuple[tuple[str, str, str, int, int], ...]:
    return COLUMNS if subset == "all" else COLUMNS[:-1]


def _row(label: str, statistics: Json, subset: str, intervals: Sequence[str], missed: str = "") -> list[str]:
    cells = []
    for name, _, _, factor, digits in _columns(subset):
        negative = name == "r2" and (statistics.get("pearson", {}).get("value") or 0) < 0
        cells.append(_cell(statistics.get(name), factor, digits, name in intervals) + (" (r < 0)" if negative else ""))
    return [label, *cells, *([missed] if subset == "all" else [])]


def _cell(estimate: Json | None, factor: float, digits: int, interval: bool) -> str:
    if estimate is None:
        return ""
    if estimate["value"] is None:
        return "–"
    value = f"{factor * estimate['value']:.{digits}f}"
    if not interval or estimate["low"] is None:
        return value
    return f"{value} [{factor * estimate['low']:.{digits}f}, {factor * estimate['high']:.{digits}f}]"


# ---- text


def title(result: Json) -> str:
    band = result["settings"]["band"]
    where = f" within {100 * BAND:.0f} % of {band:g} ms" if band else ""
    return (
        f"{len(result['networks'])} networks of {result['space']}{where} at {result['image_size']} px on "
        f"{result['data']}, {result['epochs']} epochs from scratch, {result['num_seeds']} times"
    )


def notes(result: Json) -> list[str]:
    bars, noise = result["bars"], result["noise"]
    if not noise:
        return [
            *NOTES,
            "How noisy the accuracies from scratch are, one training of each does not tell: give --seeds 2.",
        ]
    ceiling = noise["ceiling"]["all"]["r2"]["value"]
    found = [*NOTES, f"{CEILING_NOTE}; r² and τ less than {bars['margin']} below it are good enough."]
    if ceiling is None or ceiling < bars["r2"]:
        found.append("WARNING: noise hides how well the arms rank; train longer (--epochs) or more often (--seeds)")
    return found


def text(result: Json) -> str:
    head = ["", *(heading for _, heading, *_ in COLUMNS), "bars missed"]
    parts = [title(result)]
    for subset, heading in SUBSETS.items():
        shown = rows(result, subset, ("r2", "kendall"))
        lines = [head[: len(shown[0])], *shown]
        parts.append(f"\n{heading}\n" + align(lines, "<" + ">" * len(_columns(subset)) + "<" * (subset == "all")))
    return "\n".join([*parts, "", *notes(result)])


def markdown(result: Json) -> str:
    """A table for docs: every statistic with its interval, and r² and τ without the extremes."""
    everything, inner = rows(result, "all", NAMES), rows(result, "without_extremes", NAMES)
    head = ["", *(f"{name}, {unit}" for _, name, unit, *_ in COLUMNS), f"r², {WITHOUT}", "τ, likewise", "bars missed"]
    r2, tau = 1 + NAMES.index("r2"), 1 + NAMES.index("kendall")
    body = [[*row[:-1], other[r2], other[tau], row[-1]] for row, other in zip(everything, inner, strict=True)]
    lines = [head, ["---"] * len(head), *body]
    parts = [f"`{result['command']}`:", "", *(f"| {' | '.join(cells)} |" for cells in lines), "", *notes(result)]
    return "\n".join(parts) + "\n"


# ---- page


def study_page(result: Json) -> str:
    """The whole document."""
    head = ["", *(f"{name}\n{unit}" for _, name, unit, *_ in COLUMNS), "bars missed"]
    soft = '<p class="soft">{}</p>\n'
    parts = [html("<h1>How far the supernet's ranking can be trusted</h1>\n"), html(soft, title(result))]
    if result["arms"]:
        parts += [html(soft, SCATTER_NOTE), html('<div class="cards">\n{}</div>\n', joined(_panels(result)))]
    for subset, heading in SUBSETS.items():
        shown = rows(result, subset, NAMES)
        found = table(head[: len(shown[0])], shown, text=(0, len(COLUMNS) + 1))
        parts.append(html("<h2>{}</h2>\n{}", heading, found))
    parts += [html(soft, note) for note in notes(result)]
    parts.append(html("<h2>Networks</h2>\n{}<h2>Made by</h2>\n<pre>{}</pre>\n", _networks(result), origin(result)))
    return page("Ranking study", parts, style=STYLE, plots=bool(result["arms"]))


def origin(result: Json) -> str:
    minutes = ", ".join(f"{name} {value:.0f}" for name, value in result["minutes"].items())
    lines = [result["command"], f"{result['machine']}; {result['date']}; minutes of training: {minutes}"]
    lines += [f"{arm['label']}: {arm['run']}, {arm['epochs']} epochs" for arm in result["arms"]]
    return "\n".join(lines)


def _networks(result: Json) -> Markup:
    head = ["number", "MES", "parameters\nM", "MACs\nM", "latency\nms", "from scratch\n%, each seed"]
    columns = [
        (f"{arm['label']}\n{norms}", e["accuracies"]) for arm in result["arms"] for norms, e in arm["norms"].items()
    ]
    body = []
    for i, network in enumerate(result["networks"]):
        costs = network["costs"]
        latency = f"{costs['latency_ms']:.3f}" if "latency_ms" in costs else "–"
        cells = [
            str(i),
            f"{costs['mes']:,.1f}",
            f"{costs['num_params'] / 1e6:.3f}",
            f"{costs['macs'] / 1e6:.1f}",
            latency,
        ]
        cells.append(", ".join(f"{100 * a:.2f}" for a in network["scratch"]))
        body.append([*cells, *(f"{100 * accuracies[i]:.2f}" for _, accuracies in columns)])
    return table([*head, *(name for name, _ in columns)], body)


def _panels(result: Json) -> Iterator[Markup]:
    """Of each supernet: inherited against from scratch, by how the norms were got."""
    values = [100 * accuracy for network in result["networks"] for accuracy in network["scratch"]]
    room = 0.05 * (max(values) - min(values)) + 0.2
    ends = [min(values) - room, max(values) + room]
    for i, arm in enumerate(result["arms"]):
        traces = [_diagonal(ends), *_traces(result, arm)]
        plot = figure(traces, "from scratch, %", "inherited, %", showlegend=False, xaxis={"range": ends})
        yield html("<figure>{}{}</figure>\n", _caption(arm), embed(f"scatter{i}", plot, "low"))


def _caption(arm: Json) -> Markup:
    lines = [html("<b>{}</b>\n", arm["label"])]
    for norms, entry in arm["norms"].items():
        statistics = entry["statistics"]["all"]
        r2, tau = (_cell(statistics[name], 1, 2, False) for name in ("r2", "kendall"))
        lines.append(html('<br><span style="color:{}">● {}: r² {}, τ {}</span>', COLORS[norms], norms, r2, tau))
    return html("<figcaption>{}</figcaption>\n", joined(lines))


def _diagonal(ends: Sequence[float]) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(x=ends, y=ends, mode="lines", line={"color": GRAY, "dash": "dot", "width": 1}, hoverinfo="skip")


def _traces(result: Json, arm: Json) -> list[Any]:
    import plotly.graph_objects as go

    scratch = [[100 * a for a in network["scratch"]] for network in result["networks"]]
    means = [sum(each) / len(each) for each in scratch]
    span = {
        "array": [max(each) - mean for each, mean in zip(scratch, means, strict=True)],
        "arrayminus": [mean - min(each) for each, mean in zip(scratch, means, strict=True)],
    }
    return [
        go.Scatter(
            x=means,
            y=[100 * a for a in entry["accuracies"]],
            error_y=error_bars([(a, result["splits"]["test"]) for a in entry["accuracies"]])
            | {"thickness": 1, "width": 0, "color": COLORS[norms]},
            error_x={**span, "symmetric": False, "thickness": 1, "width": 0, "color": COLORS[norms]},
            customdata=[_hover(i, network) for i, network in enumerate(result["networks"])],
            hovertemplate=f"%{{customdata}}<br>from scratch %{{x:.2f}} %, inherited %{{y:.2f}} %<extra>{norms}</extra>",
            mode="markers",
            marker={"color": COLORS[norms], "size": 8},
        )
        for norms, entry in arm["norms"].items()
    ]


def _hover(number: int, network: Json) -> str:
    costs = network["costs"]
    arch = [
        f"{escape(k)} {escape(json.dumps(v, separators=(',', ':')))}"
        for k, v in network["arch"].items()
        if k != "space"
    ]
    return f"<b>network {number}</b>, MES {costs['mes']:.4g}<br>" + "<br>".join(arch)
