"""The page of a run, made of whatever the run has so far, and its first tables as text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import Any

from nas import runs
from nas.evaluation.intervals import with_interval
from nas.inspection.page import STYLE as PHOTOS
from nas.objective.figure import classifies
from nas.objective.metrics import latency_metrics, shown
from nas.objective.precisions import precision_of
from nas.reporting import plots
from nas.reporting.baselines import baselines
from nas.reporting.data import Artifacts, Json, read_artifacts
from nas.reporting.drawing import STYLE, draw_arch, numbers, percent
from nas.reporting.latency import latency_tables
from nas.reporting.recommended import closer, look_closer, preparation
from nas.reporting.verdict import as_text, verdict
from nas.reporting.winners import heading_of, size_columns, winner_table, winners
from nas.runs.next_step import next_command, train_searched
from nas.runs.results import lasted, several_units
from nas.searching.result import points_of
from search_spaces import UserError
from search_spaces.command import Flags, flag
from search_spaces.command.files import write_text
from search_spaces.command.page import Markup, commands, embed, html, link, page, table


@dataclass(frozen=True)
class Config(Flags):
    run: str | None = flag(None, "run under runs/ (default: the newest)")


def write_report(run_folder: Path) -> Path:
    """Writes `report.html` of the run and returns its path.

    Raises:
        UserError: an artifact cannot be read.
    """

    artifacts = read_artifacts(run_folder)
    results = (_summary, baselines, _curve, closer, _exports, preparation, _networks)
    sections = (*results, latency_tables, _training, _others, _trajectories, _commands)
    parts = [part for section in sections for part in section(artifacts)]
    path = run_folder / "report.html"
    plots = any("data-plot=" in part for part in parts)
    write_text(path, page(run_folder.resolve().name, parts, style=STYLE + PHOTOS, plots=plots))
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
    if a.baselines:
        yield html("<p><strong>{}</strong></p>\n", verdict(a.baselines))
    if a.winners:
        for group in a.groups:
            yield from winners(a, group)
        yield html(
            '<p class="soft">Search {} is on the search split, with the weights inherited from the supernet; it '
            "flatters winners, which were picked by it. {}In brackets: 95 % intervals. Predicted latency is the "
            "table’s, on its device{}.</p>\n",
            a.figure,
            f"Test {a.figure} is on the test split. " if a.retrained else "",
            "; measured is the exported file’s in ONNX Runtime, on the machine that exported it" if a.exported else "",
        )
    elif a.supernet:
        search, test = a.supernet["search_accuracy"], a.supernet["test_accuracy"]
        rows = [
            [name, *(a.said(*found) for found in ((search[name], splits.search), (test[name], splits.test)))]
            for name in search
        ]
        of = f"{a.figure}, 95 % interval" if classifies(a.info.space) else a.figure
        yield table(["Supernet’s network", f"Search {of}", f"Test {of}"], rows)
    if missing := next_stage(a):
        yield html("<p>Next: <code>{}</code></p>\n", next_command(missing[0], a.folder, *missing[1:]))
    elif a.recommending and not classifies(a.info.space):
        name = a.searches[a.recommending]["recommended"]["name"]
        yield html("<p>Next: <code>{}</code></p>\n", train_searched(a.folder, a.info.space, name))


def next_stage(a: Artifacts) -> list[str] | None:
    """The command that makes the next stage that is missing, and its flags but --run."""
    to_retrain = _to_retrain(a)
    flags: list[str] = []
    if a.supernet is None:
        stage, flags = "train_supernet", ["--resume"]
    elif not a.searches:
        stage = "search"
    elif not classifies(a.info.space):
        return None
    elif to_retrain is not None:
        stage, flags = "retrain", to_retrain
    elif a.baselines is None and runs.WHOLE in a.retrained:
        stage = "baselines"
    elif missing := [name for name in a.retrained if name not in (*a.exported, *_narrowed(a), runs.WHOLE)]:
        stage, flags = "export", ["--winners", *missing] if a.exported or _narrowed(a) else []
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
        if heading := heading_of(a, group):
            yield html("<h3>{}</h3>\n", heading)
        yield embed(f"curve-{i}" if i else "curve", plots.curve(a, group), "")


def _networks(a: Artifacts) -> Iterator[Markup]:
    if not a.winners:
        return
    yield html("<h2>The networks</h2>\n")
    yield html('<div class="cards">\n')
    archs = {name: a.space.from_json(w["arch"]) for name, w in a.winners.items()}
    for name, arch in {**archs, "largest": a.space.largest}.items():
        yield html("<figure><h3>{}</h3>{}</figure>\n", name, draw_arch(a.space, arch))
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
                "{s[minutes]:.1f} minutes, {s[images_per_s]:.0f} images/s; {figure} on the search split</p>\n",
                s=s,
                figure=a.figure,
                norms=norms[s["norm"]],
                lasted=lasted(s),
                shortened=shortened,
            )
        accuracies = {
            name: plots.column(a.supernet_metrics, f"{name}_accuracy", 100)
            for name in ("largest", "middle", "smallest")
        }
        yield from _pair("supernet", {"loss": plots.column(a.supernet_metrics, "loss")}, accuracies, a.figure)
    metrics = {name: rows for name, rows in a.retrain_metrics.items() if len(rows) > 1}
    if metrics:
        yield html('<h3>Retraining</h3>\n<p class="soft">accuracy on the search split</p>\n')
        losses = {name: plots.column(rows, "loss") for name, rows in metrics.items()}
        accuracies = {n: plots.column(rows, "accuracy", 100) for n, rows in metrics.items()}
        yield from _pair("retrain", losses, accuracies, a.figure)


def _pair(name: str, losses: dict[str, Any], accuracies: dict[str, Any], figure: str) -> Iterator[Markup]:
    plot = '<div class="pair">\n<div>{}</div>\n<div>{}</div>\n</div>\n'
    loss = embed(f"{name}-loss", plots.lines(losses, "loss", log=True), "low")
    yield html(plot, loss, embed(f"{name}-accuracy", plots.lines(accuracies, f"{figure}, %"), "low"))


def _exports(a: Artifacts) -> Iterator[Markup]:
    if not a.exported:
        return
    rows = [
        [
            name,
            f"{name}/{part['file']}",
            part["precision"],
            f"{part['bytes'] / 1e6:.2f}",
            with_interval(part["test_accuracy"], part["test_images"]) if "test_accuracy" in part else "–",
            f"{0 - part['drop']:+.2f}" if "drop" in part else "–",
            f"{part['latency_ms']['min']:.3f}" if "latency_ms" in part else "–",
            f"{part['peak_memory_bytes'] / 1e6:.1f}" if "peak_memory_bytes" in part else "–",
            _difference(part),
            _executed_by(part),
        ]
        for name, result in a.exported.items()
        for part in result["files"].values()
    ]
    yield html("<h2>Exported files</h2>\n")
    head = [
        "Network",
        "File\nin export/",
        "Precision",
        "Size\nMB",
        "Test accuracy\nof the file",
        "Points more\nthan PyTorch",
    ]
    head += ["Latency\nms", "Memory\nMB", "Numbers\nagainst PyTorch", "Executed by"]
    yield table(head, rows, text=(0, 1, 2, 8, 9))
    yield html(
        '<p class="soft">Each file answered the test images in its own runtime, and is compared with the network in '
        "PyTorch on the same images; a Core ML program that PyTorch executes answered fewer of them. Numbers are "
        "compared on made-up images, half of them noise. Memory is what loading and running the file adds to a process "
        "at most, its runtime aside.</p>\n"
    )


EXECUTED_BY = {"onnx": "ONNX Runtime", "timm": "timm", "litert": "LiteRT", "executorch": "ExecuTorch"}


def _executed_by(part: Json) -> str:
    by = part.get("executed_by", EXECUTED_BY.get(part["format"], ""))
    return f"{by} ({units})" if (units := several_units(part)) else by


def _difference(part: Json) -> str:
    if not part["max_abs_diff"]:
        return "equal bit for bit"
    return f"{'probabilities' if part['format'] == 'coreml' else 'logits'} within {part['max_abs_diff']:.1e}"


def _others(a: Artifacts) -> Iterator[Markup]:
    """Links to the pages of prunings and evaluations."""
    if a.pruned:
        yield html("<h2>Pruned networks</h2>\n")
        rows = [
            [
                link(f"prune/{name}/report.html", name),
                *(
                    with_interval(result["accuracy"][stage]["test"], result["num_images"]["test"])
                    for stage in ("dense", "finetuned")
                ),
                _pruned_on(a, name, result),
                percent(result["networks"]["pruned"]["macs"] / result["networks"]["dense"]["macs"]),
            ]
            for name, result in a.pruned.items()
        ]
        head = ["Pruning", "Accuracy\nbefore", "Accuracy\nfine-tuned", "Images\nthat it is of", "MACs\nthat remain"]
        yield table(head, rows, text=(0, 3))
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


def _pruned_on(a: Artifacts, name: str, result: Json) -> str:
    """The images that a pruning's accuracies are of: it may be of another network, and of other data."""
    what = "maybe seen" if result["may_have_seen_test"] else "test split"
    own = runs.fact(a.folder / "prune" / name, "data_digest", str) == a.info.splits.digest
    return f"{result['num_images']['test']:,}, {what}{'' if own else ', others than the run’s'}"


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
            [precision_of(p) for p in points],
            [percent(p["accuracy"]) for p in points],
            *(numbers([p.get(metric) for p in points]) for metric in latencies),
            *size_columns(points),
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
        figure = "Accuracy" if classifies(a.info.space) else a.figure
        head = ["Step", "Action", "Precision", figure, *heads, "Parameters, M", "MACs, M", "Memory, MB", "MES", ""]
        yield html("{}</details>\n", table(head, rows, text=(0, 1, 2, len(head) - 1)))


STAGES = (
    "finetune",
    "train_supernet",
    "build",
    "transfer",
    "validate",
    "search",
    "retrain",
    "baselines",
    "export",
    "prune",
)


def _commands(a: Artifacts) -> Iterator[Markup]:
    found = []
    for used in a.tables:
        if not isinstance(used.table, UserError) and used.table.provenance.command:
            found.append(used.table.provenance.command)
        if used.validation:
            found.append(f"python -m latency_lut.validate --table {shlex.quote(used.path)}")
    stages = (a.searches, a.retrained, a.exported, a.pruned, a.evaluated)
    found += [result["command"] for stage in stages for result in stage.values()]
    found += [a.supernet["command"]] if a.supernet else []
    found += [a.baselines.command] if a.baselines else []
    if found:
        yield html("<h2>Commands, in order</h2>\n{}", commands(sorted(dict.fromkeys(found), key=_stage)))


def _stage(command: str) -> int:
    """When it is used: by the last part of its module's name, such as `python -m nas.search`."""
    module = next((word for word in command.split() if word.startswith(("nas.", "latency_lut."))), "")
    name = module.rpartition(".")[2]
    return STAGES.index(name) if name in STAGES else len(STAGES)


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
        if heading := heading_of(artifacts, group):
            lines.append(f"{heading}: MES = {group.objective.formula}")
        head, rows = winner_table(artifacts, group)
        rows = [[cell.replace("\n", " ") for cell in row] for row in rows]
        heads = pd.MultiIndex.from_tuples([(*name.split("\n"), "")[:2] for name in head])
        lines.append(pd.DataFrame(rows, columns=heads).to_string(index=False))
        lines += [*artifacts.recommendations(group), *artifacts.warnings(group)]
    if artifacts.baselines:
        lines += ["", as_text(artifacts.baselines, artifacts.baselines_warnings)]
    return "\n".join([*lines, ""])


def report(config: Config) -> Path:
    """Writes the page, prints its first tables and returns its path."""
    folder = runs.find_run(config.run, "run.json", "python -m nas.train_supernet")
    look_closer(folder)
    path = write_report(folder)
    print(f"{winners_text(folder)}wrote {path}")
    return path
