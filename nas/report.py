"""One page that shows a run: winners, the curve, the networks, the latency table, training, the commands.

`report.html` is self-contained (it loads nothing, from this machine or any other) and made of whatever the run has so
far. Bare: the newest run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from pathlib import Path
from statistics import fmean
from typing import Any

from latency_lut.table import LatencyTable
from nas import report_plots as plots
from nas import runs
from nas.objective import LATENCY, latency_metrics, shown
from nas.report_data import Artifacts, Json, points_of, read_artifacts
from nas.report_page import STYLE, describe, draw_arch
from nas.search_result import objective_of
from search_spaces import UserError
from search_spaces.command import flag, parse, run
from search_spaces.files import write_text
from search_spaces.page import embed, page, table


@dataclass(frozen=True)
class Config:
    run: str | None = flag(None, "run under runs/ (default: the newest)")


def write_report(run_folder: Path) -> Path:
    """Writes `report.html` of the run and returns its path.

    Raises:
        UserError: an artifact cannot be read.
    """

    artifacts = read_artifacts(run_folder)
    sections = (_summary, _curve, _networks, _latency, _training, _exports, _trajectories, _commands)
    body = "".join(html for section in sections for html in section(artifacts))
    path = run_folder / "report.html"
    write_text(path, page(run_folder.resolve().name, body, style=STYLE, plots='class="plot' in body))
    return path


# ---- sections: each yields HTML, or nothing where the run has nothing to show


def _summary(a: Artifacts) -> Iterator[str]:
    splits = a.info.splits
    yield f"<h1>{escape(a.folder.resolve().name)}</h1>\n"
    yield (
        f'<p class="soft">{escape(a.info.space)}, 10<sup>{log10(a.space.size()):.0f}</sup> networks · '
        f"{a.info.image_size} px · {a.info.num_classes} classes · images: {splits.train:,} to train on, "
        f"{splits.search:,} to search with, {splits.test:,} to test on</p>\n"
    )
    if a.winners:
        yield table(_columns(a), _winner_rows(a), wide=True)
        yield (
            '<p class="soft">Search accuracy is on images held out of the training data, with the supernet’s weights. '
            "Test images were seen by neither training nor search. Predicted latency is the table’s, on its device; "
            "measured is the exported file’s in ONNX Runtime, on the machine that exported it.</p>\n"
        )
        yield from dict.fromkeys(f'<p class="soft">{_score(s)}</p>\n' for s in a.searches.values())
    elif a.supernet:
        search, test = a.supernet["search_accuracy"], a.supernet["test_accuracy"]
        rows = [[name, _percent(search[name]), _percent(test[name])] for name in search]
        yield table(["Supernet’s network", "Accuracy\nsearch split", "Accuracy\ntest split"], rows)
    if missing := _next_command(a):
        yield f"<p>Next: <code>{escape(missing)}</code></p>\n"


def _winner_rows(a: Artifacts) -> list[list[str]]:
    """The winners, once for each training, and the largest network for comparison, if a search has evaluated it."""
    points = (p for search in a.searches.values() for p in points_of(search))
    largest = [p for p in points if p["arch"] == a.space.to_json(a.space.largest)][:1]
    names, winners = [*a.networks, *("largest" for _ in largest)], [*a.networks.values(), *largest]
    inherited = {"inherited_test_accuracy": a.supernet["test_accuracy"]["largest"]} if a.supernet else {}
    retrained = [*(a.retrained.get(name, {}) for name in a.networks), *(inherited for _ in largest)]
    timed = [a.exported.get(name, {}).get("onnx", {}).get("latency_ms", {}) for name in names]
    columns = (
        names,
        [_percent(w["accuracy"]) for w in winners],
        [_percent(r.get("inherited_test_accuracy")) for r in retrained],
        [_percent(r.get("test_accuracy")) for r in retrained],
        *(_numbers([w.get(metric) for w in winners]) for metric in a.latencies or [LATENCY]),
        _numbers([t.get("min") for t in timed]),
        *_size_columns(winners),
    )
    return [list(row) for row in zip(*columns, strict=True)]


def _columns(a: Artifacts) -> list[str]:
    return [
        "Network",
        "Search accuracy\ninherited",
        "Test accuracy\ninherited",
        "Test accuracy\nretrained",
        *(f"{shown(metric).title.capitalize()}\npredicted" for metric in a.latencies or [LATENCY]),
        "Latency, ms\nmeasured",
        "Parameters\nmillions",
        "MACs\nmillions",
        "Memory\nMB",
        "MES",
    ]


def _size_columns(points: Sequence[Json]) -> tuple[list[str], ...]:
    return (
        _numbers([p["num_params"] / 1e6 for p in points]),
        _numbers([p["macs"] / 1e6 for p in points]),
        _numbers([p.get("memory_mb") for p in points]),
        _numbers([p["mes"] for p in points]),
    )


def _score(search: Json) -> str:
    """The definition of MES in this search, as HTML."""
    terms = [(shown(term.metric), term) for term in objective_of(search).terms]
    factors = (f"({escape(m.name)} / {m.text(term.unit)})<sup>−{term.alpha:g}</sup>" for m, term in terms)
    return "MES = 100 · " + " · ".join(f'<span class="whole">{factor}</span>' for factor in factors)


def _next_command(a: Artifacts) -> str | None:
    """What makes the next stage that is missing."""
    if a.supernet is None:
        stage = "train_supernet --resume"
    elif not a.searches:
        stage = "search"
    elif a.winners.keys() - a.retrained.keys():
        stage = "retrain"
    elif a.retrained.keys() - a.exported.keys():
        stage = "export"
    else:
        return None
    return f"python -m nas.{stage} --run {shlex.quote(a.folder.resolve().name)}"


def _curve(a: Artifacts) -> Iterator[str]:
    if a.searches:
        yield "<h2>The curve</h2>\n"
        yield embed("curve", plots.curve(a), "")


def _networks(a: Artifacts) -> Iterator[str]:
    if not a.winners:
        return
    yield "<h2>The networks</h2>\n"
    yield (
        '<p class="soft"><span class="key"></span> a block: as wide as its channels, as tall as its expansion · '
        '<span class="key round"></span> attention · <span class="key ghost"></span> what the largest network has</p>\n'
    )
    yield '<div class="cards">\n'
    archs = {name: a.space.from_json(w["arch"]) for name, w in a.winners.items()}
    for name, arch in {**archs, "largest": a.space.largest}.items():
        yield f"<figure><h3>{escape(name)}</h3>{draw_arch(a.space, arch)}"
        yield f"<figcaption>{escape(describe(a.space, arch))}</figcaption></figure>\n"
    yield "</div>\n"


def _latency(a: Artifacts) -> Iterator[str]:
    if a.tables:
        yield "<h2>The latency table</h2>\n"
    for i, (path, t) in enumerate(a.tables.items()):
        if isinstance(t, UserError):
            yield f'<p class="soft">Not shown: {escape(str(t))}</p>\n'
            continue
        validation = a.validations.get(path)
        yield _provenance(t)
        if t.provenance.busy or (validation and validation["busy"]):
            yield "<p><strong>The machine was busy during this measurement; repeat it when it is quiet.</strong></p>\n"
        pairs: dict[str, Sequence[tuple[float, float]]]
        pairs = {"calibration networks": [(n.predicted_ms, n.min_ms) for n in t.calibration.networks]}
        rows = [_accuracy_row("calibration networks (fitted)", errors(pairs["calibration networks"]))]
        if validation:
            held_out = [(n["predicted_ms"], n["measured_ms"]) for n in validation["networks"]]
            pairs["held-out networks"] = held_out
            rows += [
                _accuracy_row(label.format(len(held_out)), validation[key])
                for key, label in _PREDICTORS.items()
                if key in validation
            ]
        yield embed(f"table-{i}", plots.calibration(pairs), "square")
        yield table(["", "Mean error", "Bias", "Within 5 %", "Within 10 %", "Spearman", "Kendall"], rows)


def _provenance(t: LatencyTable) -> str:
    source, line = t.provenance, t.calibration
    facts = [str(source.runtime), f"{len(t.rows)} blocks"]
    if source.unclean_share is not None:
        facts.append(f"{_percent(source.unclean_share)} of samples disturbed")
    offset = f"{'-' if line.offset_ms < 0 else '+'} {abs(line.offset_ms):.4f} ms"
    return (
        f'<p class="soft">{escape(" · ".join([*facts, source.date[:10]]))}</p>\n'
        f"<p>latency = {line.scale:.4f} × sum of blocks {offset}</p>\n"
    )


_PREDICTORS = {
    "table": "{} held-out networks",
    "at_this_speed": "the same, at the speed of that hour",
    "repeat_floor": "the same, measured twice",
    "uncalibrated_sum": "the same, by the plain sum of blocks",
    "macs": "the same, by MACs",
    "num_params": "the same, by parameters",
}


def errors(pairs: Sequence[tuple[float, float]]) -> Json:
    """Relative errors of (predicted, measured) pairs, under the names that a validation gives them."""
    relative = [predicted / measured - 1 for predicted, measured in pairs]
    return {
        "mape": fmean(map(abs, relative)),
        "bias": fmean(relative),
        "within_5_percent": fmean(abs(e) <= 0.05 for e in relative),
        "within_10_percent": fmean(abs(e) <= 0.10 for e in relative),
    }


def _accuracy_row(label: str, row: Json) -> list[str]:
    return [
        label,
        _percent(row["mape"]),
        f"{100 * row['bias']:+.2f} %",
        f"{100 * row['within_5_percent']:.0f} %",
        f"{100 * row['within_10_percent']:.0f} %",
        *("–" if row.get(name) is None else f"{row[name]:.3f}" for name in ("spearman", "kendall")),
    ]


def _training(a: Artifacts) -> Iterator[str]:
    if len(a.supernet_metrics) > 1:
        yield "<h2>Training</h2>\n<h3>Supernet</h3>\n"
        if a.supernet:
            s = a.supernet
            norms = {"width": "norms for each width", "shared": "shared norms"}
            recipe = f"{s['loss']} loss, {s['sampling']} sampling, {norms[s['norm']]} · " if "norm" in s else ""
            yield (
                f'<p class="soft">{recipe}{s["epochs"]} epochs in {s["minutes"]:.1f} minutes, '
                f"{s['images_per_s']:.0f} images/s; accuracy on the search split</p>\n"
            )
        accuracies = {
            name: plots.column(a.supernet_metrics, f"{name}_accuracy", 100) for name in ("largest", "smallest")
        }
        yield from _pair("supernet", {"loss": plots.column(a.supernet_metrics, "loss")}, accuracies)
    metrics = {name: rows for name, rows in a.retrain_metrics.items() if len(rows) > 1}
    if metrics:
        yield '<h3>Retraining</h3>\n<p class="soft">accuracy on the search split</p>\n'
        losses = {name: plots.column(rows, "loss") for name, rows in metrics.items()}
        yield from _pair("retrain", losses, {n: plots.column(rows, "accuracy", 100) for n, rows in metrics.items()})


def _pair(name: str, losses: dict[str, Any], accuracies: dict[str, Any]) -> Iterator[str]:
    yield '<div class="pair">\n'
    yield embed(f"{name}-loss", plots.lines(losses, "loss", log=True), "low")
    yield embed(f"{name}-accuracy", plots.lines(accuracies, "accuracy, %"), "low")
    yield "</div>\n"


def _exports(a: Artifacts) -> Iterator[str]:
    if not a.exported:
        return
    compared = {"onnx": "logits", "coreml": "probabilities", "timm": "logits"}
    rows = [
        [
            name,
            f"{name}/{part['file']}",
            f"{part['bytes'] / 1e6:.2f}",
            f"{compared[kind]} within {part['max_abs_diff']:.1e}" if part["max_abs_diff"] else "equal bit for bit",
            part.get("executed_by", {"onnx": "ONNX Runtime", "timm": "timm"}.get(kind, "")),
        ]
        for name, result in a.exported.items()
        for kind, part in result.items()
        if kind in compared
    ]
    yield "<h2>Exported files</h2>\n"
    yield table(["Network", "File in export/", "Size, MB", "Against PyTorch", "Executed by"], rows, text=(0, 1, 3, 4))


def _trajectories(a: Artifacts) -> Iterator[str]:
    if a.searches:
        yield "<h2>The search, step by step</h2>\n"
    for name, search in a.searches.items():
        points = points_of(search)
        latencies = latency_metrics(points[0] if points else [])
        winners = {w.get("step", w.get("index")): w["name"] for w in search["winners"]}
        columns = (
            [str(p["step"]) for p in points],
            [_action(p) for p in points],
            [_percent(p["accuracy"]) for p in points],
            *(_numbers([p.get(metric) for p in points]) for metric in latencies),
            *_size_columns(points),
            [winners.get(p["step"], "Pareto set" if p["pareto"] else "") for p in points],
        )
        rows = [list(row) for row in zip(*columns, strict=True)]
        yield (
            f"<details><summary>{escape(name)}: {len(points)} steps of {search['strategy']}, "
            f"{search['num_evaluations']:,} networks "
            f"evaluated in {search['minutes']:.1f} minutes</summary>\n"
        )
        heads = (shown(metric).title.capitalize() for metric in latencies)
        head = ["Step", "Action", "Accuracy", *heads, "Parameters, M", "MACs, M", "Memory, MB", "MES", ""]
        yield table(head, rows, text=(0, 1, len(head) - 1)) + "</details>\n"


def _commands(a: Artifacts) -> Iterator[str]:
    tables = []
    for path, t in a.tables.items():
        if not isinstance(t, UserError) and t.provenance.command:
            tables.append(t.provenance.command)
        if path in a.validations:
            tables.append(f"python -m latency_lut.validate --table {shlex.quote(path)}")
    before = [a.supernet["command"]] if a.supernet else []
    after = [r["command"] for stage in (a.searches, a.retrained, a.exported) for r in stage.values()]
    if commands := dict.fromkeys([*before, *tables, *after]):
        yield f"<h2>Commands, in order</h2>\n<pre>{escape(chr(10).join(commands))}</pre>\n"


def _action(point: Json) -> str:
    if "action" not in point:
        return ""
    action = point["action"]
    return "largest network" if action is None else f"{action['choice']}: {action['before']} → {action['after']}"


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def _numbers(column: Sequence[float | None]) -> list[str]:
    """One number of decimals for the column: three digits of its smallest value, at most three decimals."""
    smallest = min((abs(v) for v in column if v), default=1.0)
    decimals = min(3, max(0, 2 - floor(log10(smallest))))
    return ["–" if v is None else f"{v:,.{decimals}f}" for v in column]


def winners_text(run_folder: Path) -> str:
    """The report's first table as plain text; empty before a search has picked winners."""
    import pandas as pd

    artifacts = read_artifacts(run_folder)
    if not artifacts.winners:
        return ""
    heads = pd.MultiIndex.from_tuples([(*head.split("\n"), "")[:2] for head in _columns(artifacts)])
    return pd.DataFrame(_winner_rows(artifacts), columns=heads).to_string(index=False) + "\n"


def main() -> None:
    config = parse(Config, None, "python -m nas.report", __doc__ or "")
    folder = runs.find_run(config.run, "run.json", "python -m nas.train_supernet")
    path = write_report(folder)
    print(f"{winners_text(folder)}wrote {path}")


if __name__ == "__main__":
    run(main)
