"""The page of a run, made of whatever the run has so far, and its first tables as text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import Any

from nas import runs
from nas.objective.metrics import latency_metrics, shown
from nas.reporting import plots
from nas.reporting.baselines import baselines
from nas.reporting.data import Artifacts, Group, Json, read_artifacts
from nas.reporting.drawing import STYLE, describe, draw_arch, legend, numbers, percent
from nas.reporting.latency import latency_tables
from nas.reporting.verdict import as_text
from nas.runs.next_step import next_command
from nas.runs.results import STARTS, lasted
from nas.searching.result import points_of
from search_spaces import UserError
from search_spaces.command import Flags, flag
from search_spaces.command.files import write_text
from search_spaces.command.page import Markup, embed, html, joined, link, page, table, warning


@dataclass(frozen=True)
class Config(Flags):
    run: str | None = flag(None, "run under runs/ (default: the newest)")


def write_report(run_folder: Path) -> Path:
    """Writes `report.html` of the run and returns its path.

    Raises:
        UserError: an artifact cannot be read.
    """

    artifacts = read_artifacts(run_folder)
    results = (_summary, baselines, _curve, _networks, latency_tables)
    sections = (*results, _training, _exports, _others, _trajectories, _commands)
    parts = [part for section in sections for part in section(artifacts)]
    path = run_folder / "report.html"
    plots = any('class="plot' in part for part in parts)
    write_text(path, page(run_folder.resolve().name, parts, style=STYLE, plots=plots))
    return path


# ---- sections: each yields parts of the page, or nothing where the run has nothing to show


def _summary(a: Artifacts) -> Iterator[Markup]:
    splits = a.info.splits
    yield html("<h1>{}</h1>\n", a.folder.resolve().name)
    yield html(
        '<p class="soft">{}, 10<sup>{:.0f}</sup> networks · {} px · {} classes · '
        "images: {:,} to train on, {:,} to search with, {:,} to test on</p>\n",
        a.info.space,
        log10(a.space.size()),
        a.info.image_size,
        a.info.num_classes,
        splits.train,
        splits.search,
        splits.test,
    )
    if a.winners:
        for group in a.groups:
            yield from _winners(a, group)
        yield html(
            '<p class="soft">Search accuracy is on images held out of the training data, with the supernet’s weights. '
            "Test images were seen by neither training nor search. Predicted latency is the table’s, on its device; "
            "measured is the exported file’s in ONNX Runtime, on the machine that exported it.</p>\n"
        )
    elif a.supernet:
        search, test = a.supernet["search_accuracy"], a.supernet["test_accuracy"]
        rows = [[name, percent(search[name]), percent(test[name])] for name in search]
        yield table(["Supernet’s network", "Accuracy\nsearch split", "Accuracy\ntest split"], rows)
    if missing := next_stage(a):
        yield html("<p>Next: <code>{}</code></p>\n", next_command(missing[0], a.folder, *missing[1:]))


def _heading(a: Artifacts, group: Group) -> str:
    """The names of its searches; empty where they say nothing: of the only one, on the whole search split."""
    title = a.title(group)
    return "" if [title] == list(a.searches) else title


def _winners(a: Artifacts, group: Group) -> Iterator[Markup]:
    if heading := _heading(a, group):
        yield html("<h3>{}</h3>\n", heading)
    yield table(*_winner_table(a, group), wide=True)
    yield from (html("<p><strong>{}</strong></p>\n", sentence) for sentence in a.recommendations(group))
    if trained := [name for name in group.networks if a.retrained.get(name, {}).get("all_data")]:
        yield html('<p class="soft">Trained on the search images, too: {}.</p>\n', ", ".join(trained))
    yield from map(warning, a.warnings(group))
    yield html('<p class="soft">{}</p>\n', _score(group))


def _winner_table(a: Artifacts, group: Group) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the winners, once for each training, and the largest network for comparison, if a search has
    evaluated it. Columns in which nothing is known yet are left out.
    """
    points = (p for search in group.searches.values() for p in points_of(search))
    largest = [p for p in points if p["arch"] == a.space.to_json(a.space.largest)][:1]
    names, winners = [*group.networks, *("largest" for _ in largest)], [*group.networks.values(), *largest]
    inherited = {"init": "inherit", "start_test_accuracy": a.supernet["test_accuracy"]["largest"]} if a.supernet else {}
    retrained = [*(a.retrained.get(name, {}) for name in group.networks), *(inherited for _ in largest)]
    timed = [a.exported.get(name, {}).get("onnx", {}).get("latency_ms", {}) for name in names]
    sizes = ("Parameters\nmillions", "MACs\nmillions", "Memory\nMB", "MES")
    columns = {
        "Network": names,
        "Search accuracy\ninherited": [percent(w["accuracy"]) for w in winners],
        **{
            f"Test accuracy\n{word}": [
                percent(r["start_test_accuracy"] if r.get("init") == init else None) for r in retrained
            ]
            for init, word in STARTS.items()
        },
        "Test accuracy\nretrained": [percent(r.get("test_accuracy")) for r in retrained],
        **{
            f"{shown(metric).title.capitalize()}\npredicted": numbers([w.get(metric) for w in winners])
            for metric in group.latencies
        },
        "Latency, ms\nmeasured": numbers([t.get("min") for t in timed]),
        **dict(zip(sizes, _size_columns(winners), strict=True)),
    }
    known = {head: cells for head, cells in columns.items() if set(cells) != {"–"}}
    return list(known), [list(row) for row in zip(*known.values(), strict=True)]


def _size_columns(points: Sequence[Json]) -> tuple[list[str], ...]:
    return (
        numbers([p["num_params"] / 1e6 for p in points]),
        numbers([p["macs"] / 1e6 for p in points]),
        numbers([p.get("memory_mb") for p in points]),
        numbers([p["mes"] for p in points]),
    )


def _score(group: Group) -> Markup:
    """The definition of MES in these searches."""
    terms = ((shown(term.metric), term) for term in group.objective.terms)
    factor = ' · <span class="whole">({} / {})<sup>−{:g}</sup></span>'
    return html("MES = 100{}", joined(html(factor, m.name, m.text(term.unit), term.alpha) for m, term in terms))


def next_stage(a: Artifacts) -> list[str] | None:
    """The command that makes the next stage that is missing, and its flags but --run."""
    to_retrain = _to_retrain(a)
    flags: list[str] = []
    if a.supernet is None:
        stage, flags = "train_supernet", ["--resume"]
    elif not a.searches:
        stage = "search"
    elif to_retrain is not None:
        stage, flags = "retrain", to_retrain
    elif missing := [name for name in a.retrained if name not in a.exported and name not in _narrowed(a)]:
        stage, flags = "export", ["--winners", *missing] if a.exported or _narrowed(a) else []
    elif a.baselines is None and runs.WHOLE in a.retrained:
        stage = "baselines"
    else:
        return None
    return [f"nas.{stage}", *flags]


def _narrowed(a: Artifacts) -> list[str]:
    """Networks that are there to be compared with."""
    return [n.name for n in a.baselines.networks if n.kind == "narrowed"] if a.baselines else []


def _to_retrain(a: Artifacts) -> list[str] | None:
    """Flags for the first search that has winners to train, those begun first; what ASHA stopped is trained enough."""
    begun, stopped = ({p.parent.name for p in a.folder.glob(f"retrain/*/{f}.json")} for f in ("config", "stopped"))
    for search, result in a.searches.items():
        names = [winner["name"] for winner in result["winners"]]
        missing = [name for name in names if name not in a.retrained and name not in stopped]
        if interrupted := [name for name in missing if name in begun]:
            return ["--resume", "--winners", *interrupted]
        if missing:
            of = ["--search", search] if len(a.searches) > 1 else []
            return [*of, *(["--winners", *missing] if missing != names else [])]
    return None


def _curve(a: Artifacts) -> Iterator[Markup]:
    if a.searches:
        yield html("<h2>The curve</h2>\n")
    for i, group in enumerate(a.groups):
        if heading := _heading(a, group):
            yield html("<h3>{}</h3>\n", heading)
        yield embed(f"curve-{i}" if i else "curve", plots.curve(a, group), "")


def _networks(a: Artifacts) -> Iterator[Markup]:
    if not a.winners:
        return
    yield html("<h2>The networks</h2>\n")
    yield html(
        '<p class="soft">Blocks in the order of execution: as high as their multiply-accumulates, as wide as the share '
        "of the largest network’s channels that they keep.<br>{}</p>\n",
        legend(a.space),
    )
    yield html('<div class="cards">\n')
    archs = {name: a.space.from_json(w["arch"]) for name, w in a.winners.items()}
    for name, arch in {**archs, "largest": a.space.largest}.items():
        yield html("<figure><h3>{}</h3>{}", name, draw_arch(a.space, arch))
        yield html("<figcaption>{}</figcaption></figure>\n", describe(a.space, arch))
    yield html("</div>\n")


def _training(a: Artifacts) -> Iterator[Markup]:
    if len(a.supernet_metrics) > 1:
        yield html("<h2>Training</h2>\n<h3>Supernet</h3>\n")
        if a.supernet:
            s = a.supernet
            norms = {"width": "norms for each width", "shared": "shared norms"}
            shortened = f" ({s['planned_epochs']} were planned)" if s["planned_epochs"] != s["epochs"] else ""
            yield html(
                '<p class="soft">{s[loss]} loss, {s[sampling]} sampling, {norms} · {lasted}{shortened} in '
                "{s[minutes]:.1f} minutes, {s[images_per_s]:.0f} images/s; accuracy on the search split</p>\n",
                s=s,
                norms=norms[s["norm"]],
                lasted=lasted(s),
                shortened=shortened,
            )
        accuracies = {
            name: plots.column(a.supernet_metrics, f"{name}_accuracy", 100)
            for name in ("largest", "middle", "smallest")
        }
        yield from _pair("supernet", {"loss": plots.column(a.supernet_metrics, "loss")}, accuracies)
    metrics = {name: rows for name, rows in a.retrain_metrics.items() if len(rows) > 1}
    if metrics:
        yield html('<h3>Retraining</h3>\n<p class="soft">accuracy on the search split</p>\n')
        losses = {name: plots.column(rows, "loss") for name, rows in metrics.items()}
        yield from _pair("retrain", losses, {n: plots.column(rows, "accuracy", 100) for n, rows in metrics.items()})


def _pair(name: str, losses: dict[str, Any], accuracies: dict[str, Any]) -> Iterator[Markup]:
    yield html('<div class="pair">\n')
    yield embed(f"{name}-loss", plots.lines(losses, "loss", log=True), "low")
    yield embed(f"{name}-accuracy", plots.lines(accuracies, "accuracy, %"), "low")
    yield html("</div>\n")


def _exports(a: Artifacts) -> Iterator[Markup]:
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
    yield html("<h2>Exported files</h2>\n")
    yield table(["Network", "File in export/", "Size, MB", "Against PyTorch", "Executed by"], rows, text=(0, 1, 3, 4))


def _others(a: Artifacts) -> Iterator[Markup]:
    """Links to the pages of prunings and evaluations."""
    if a.pruned:
        yield html("<h2>Pruned networks</h2>\n")
        rows = [
            [
                link(f"prune/{name}/report.html", name),
                *(percent(result["accuracy"][stage]["test"]) for stage in ("dense", "finetuned")),
                percent(result["networks"]["pruned"]["macs"] / result["networks"]["dense"]["macs"]),
            ]
            for name, result in a.pruned.items()
        ]
        yield table(["Pruning", "Test accuracy\nbefore", "Test accuracy\nfine-tuned", "MACs\nthat remain"], rows)
    if a.evaluated:
        yield html("<h2>Evaluations</h2>\n")
        rows = [
            [
                link(f"evaluate/{name}.html", name),
                ", ".join(network["name"] for network in result["networks"]),
                result["split"],
                f"{result['num_images']:,}",
            ]
            for name, result in a.evaluated.items()
        ]
        yield table(["Evaluation", "Networks", "Split", "Images"], rows, text=(0, 1, 2))


def _trajectories(a: Artifacts) -> Iterator[Markup]:
    if a.searches:
        yield html("<h2>The search, step by step</h2>\n")
    for name, search in a.searches.items():
        points = points_of(search)
        latencies = latency_metrics(points[0] if points else [])
        winners = {w.get("step", w.get("index")): w["name"] for w in search["winners"]}
        columns = (
            [str(p["step"]) for p in points],
            [_action(p) for p in points],
            [percent(p["accuracy"]) for p in points],
            *(numbers([p.get(metric) for p in points]) for metric in latencies),
            *_size_columns(points),
            [winners.get(p["step"], "Pareto set" if p["pareto"] else "") for p in points],
        )
        rows = [list(row) for row in zip(*columns, strict=True)]
        yield html(
            "<details><summary>{}: {} steps of {s[strategy]}, {s[num_evaluations]:,} networks evaluated in "
            "{s[minutes]:.1f} minutes</summary>\n",
            name,
            len(points),
            s=search,
        )
        heads = (shown(metric).title.capitalize() for metric in latencies)
        head = ["Step", "Action", "Accuracy", *heads, "Parameters, M", "MACs, M", "Memory, MB", "MES", ""]
        yield html("{}</details>\n", table(head, rows, text=(0, 1, len(head) - 1)))


def _commands(a: Artifacts) -> Iterator[Markup]:
    tables = []
    for used in a.tables:
        if not isinstance(used.table, UserError) and used.table.provenance.command:
            tables.append(used.table.provenance.command)
        if used.validation:
            tables.append(f"python -m latency_lut.validate --table {shlex.quote(used.path)}")
    before = [a.supernet["command"]] if a.supernet else []
    stages = (a.searches, a.retrained, a.exported, a.pruned, a.evaluated)
    after = [result["command"] for stage in stages for result in stage.values()]
    after += [a.baselines.command] if a.baselines else []
    if commands := dict.fromkeys([*before, *tables, *after]):
        yield html("<h2>Commands, in order</h2>\n<pre>{}</pre>\n", "\n".join(commands))


def _action(point: Json) -> str:
    if "action" not in point:
        return ""
    action = point["action"]
    return "largest network" if action is None else f"{action['choice']}: {action['before']} → {action['after']}"


def winners_text(run_folder: Path) -> str:
    """The report's first tables as plain text; empty before a search has picked winners."""
    import pandas as pd

    artifacts = read_artifacts(run_folder)
    if not artifacts.winners:
        return ""
    lines = []
    for group in artifacts.groups:
        if heading := _heading(artifacts, group):
            lines.append(f"{heading}: MES = {group.objective.formula}")
        head, rows = _winner_table(artifacts, group)
        heads = pd.MultiIndex.from_tuples([(*name.split("\n"), "")[:2] for name in head])
        lines.append(pd.DataFrame(rows, columns=heads).to_string(index=False))
        lines += [*artifacts.recommendations(group), *artifacts.warnings(group)]
    if artifacts.baselines:
        lines += ["", as_text(artifacts.baselines)]
    return "\n".join([*lines, ""])


def report(config: Config) -> Path:
    """Writes the page, prints its first tables and returns its path."""
    folder = runs.find_run(config.run, "run.json", "python -m nas.train_supernet")
    path = write_report(folder)
    print(f"{winners_text(folder)}wrote {path}")
    return path
