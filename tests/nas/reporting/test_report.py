"""The report, from whole and partial runs, read as HTML and opened in a browser where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latency_lut.tables.table import MAX_DRIFT
from nas import report as report_command
from nas.data.pixels import preprocessing
from nas.evaluation.intervals import with_interval
from nas.objective.mes import Objective, Term
from nas.reporting.drawing import BAR, STYLE, draw_arch
from nas.reporting.latency import errors
from nas.reporting.report import Config, report, winners_text, write_report
from nas.reporting.verdict import HEAD, rows, sentences, taken, verdict
from search_spaces import UserError, get_space
from search_spaces.command.files import read_json, sha256, write_json, write_text
from search_spaces.command.page import log_axis
from tests.nas.synthetic_baselines import NARROWED, PRUNED, WHOLE, WINNER, baselines
from tests.nas.synthetic_run import add_export, add_retrain, add_search, add_supernet, add_table, make_run, write_lines
from tests.nas.tiny import PATIENCE_S

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")
# As a script, each would show itself in the console or as an element of the page.
EVIL = "<script>throw Error('evil')</script><img src=http://evil.example/>"


class Page(HTMLParser):
    """Tags with their attributes, headings, table rows and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.rows: list[list[str]] = []
        self.commands: list[str] = []
        self.open: list[str] = []
        self.feed(re.sub(r"</?abbr[^>]*>", "", html))  # what a word means is no part of the text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)
        if "pre" in self.open:
            self.commands.append(data)
        if "td" in self.open:
            self.rows[-1][-1] += data

    @property
    def networks(self) -> list[list[str]]:
        """Rows of the first tables; those of files are others."""
        rows = (row for row in self.rows if len(row) > 5 and "/" not in row[1])
        return [row for row in rows if "winner-" in row[0] or row[0] == "largest"]

    @property
    def headings(self) -> list[str]:
        return self.words.get("h2", [])


def whole_run(folder: Path, classes: list[str] | None = None) -> Path:
    space = make_run(folder, classes=classes)
    add_supernet(folder)
    add_table(folder.parent / "tables/t.json", space)
    add_search(folder, space, str(folder.parent / "tables/t.json"))
    add_retrain(folder, space)
    add_export(folder)
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def page(run_folder: Path) -> Page:
    return Page(write_report(run_folder).read_text(encoding="utf-8"))


def test_plots_side_by_side_are_with_the_names_of_their_axes(page: Page, run_folder: Path) -> None:
    text = (run_folder / "report.html").read_text()
    pairs = re.findall(r'<div class="pair">\n<div>(.*?)</div>\n<div>(.*?)</div>\n</div>\n', text, re.DOTALL)
    assert len(pairs) == text.count('<div class="pair">') == 2  # of the supernet, and of retraining
    assert all(plot.count("data-plot=") == 1 and "epoch" in plot for pair in pairs for plot in pair)


def browse(path: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after its scripts have run, and what they wrote to the console."""
    assert CHROMIUM is not None
    quiet = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync"]
    flags = [f"--{name}" for name in ["headless", "no-sandbox", "disable-component-update", *quiet]]
    log = ["--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}", "--virtual-time-budget=10000"]
    done = subprocess.run(
        [CHROMIUM, *flags, *log, "--dump-dom", path.resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@needs_browser
def test_renders_without_console_errors_and_treats_text_as_text(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "a <b> & c", classes=[EVIL, "1"])
    search = read_json(run / "search/result.json")
    write_json(run / "search/result.json", {**search, "strategy": EVIL, "command": EVIL})
    dom, console = browse(write_report(run), tmp_path / "profile")
    assert console == []
    drawn = Page(dom)
    plots = [attrs for _, attrs in drawn.tags if "js-plotly-plot" in (attrs.get("class") or "")]
    assert [p["id"] for p in plots] == [
        "curve",
        "table-0",
        "supernet-loss",
        "supernet-accuracy",
        "retrain-loss",
        "retrain-accuracy",
    ]
    assert len(re.findall('class="main-svg"', dom)) >= len(plots)
    assert not [tag for tag, _ in drawn.tags if tag in ("img", "b")]
    assert "a <b> & c" in drawn.words["h1"]


@pytest.mark.heavy
@needs_browser
@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('data-plot="curve"', 'data-plot="curves"'),
        ("</main>", "<script>document.title = 'evil'</script></main>"),  # what the page's policy forbids
        ("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'),  # likewise
    ],
)
def test_the_browser_test_sees_a_broken_page(run_folder: Path, tmp_path: Path, good: str, bad: str) -> None:
    html = write_report(run_folder).read_text(encoding="utf-8")
    assert good in html
    (tmp_path / "broken.html").write_text(html.replace(good, bad), encoding="utf-8")
    _, console = browse(tmp_path / "broken.html", tmp_path / "profile")
    assert console


def test_loads_nothing(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert not re.search(r"@import|url\(", " ".join(page.words["style"]))
    policies = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")
    assert len([script for script in page.words["script"] if len(script) > 1_000_000]) == 1


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    run = tmp_path / "x<i>"
    make_run(run, classes=[EVIL, "1"])
    add_supernet(run)
    result = read_json(run / "supernet/result.json")
    texts = {"command": f"python {EVIL}", "loss": EVIL, "sampling": EVIL, "norm": "shared"}
    write_json(run / "supernet/result.json", {**result, **texts})
    html = write_report(run).read_text(encoding="utf-8")
    assert EVIL not in html
    assert "<i>" not in html
    assert "python &lt;script&gt;" in html


def interval(accuracy: float, count: int) -> str:
    """In two lines, of which a test sees one."""
    return with_interval(accuracy, count).replace(" (", "(")


def test_winners_are_shown_with_every_figure(run_folder: Path, page: Page) -> None:
    first = read_json(run_folder / "search/result.json")["winners"][0]
    retrained = read_json(run_folder / "retrain/winner-1/result.json")
    measured = read_json(run_folder / "export/winner-1/result.json")["files"]["onnx"]["latency_ms"]["min"]
    assert page.rows[1] == [
        "winner-1",
        "float32",
        interval(first["accuracy"], 216),
        interval(retrained["start_test_accuracy"], 359),
        interval(retrained["test_accuracy"], 359),
        f"{first['latency_ms']:.3f}",
        f"{measured:.3f}",
        f"{first['num_params'] / 1e6:.3f}",
        f"{first['macs'] / 1e6:.2f}",
        f"{first['memory_mb']:.3f}",
        f"{first['mes']:,.0f}",
    ]


def test_accuracies_at_the_start_are_named_by_what_was_there(tmp_path: Path) -> None:
    space = make_run(tmp_path)
    add_search(tmp_path, space)
    add_retrain(tmp_path, space)
    file = tmp_path / "retrain/winner-2/result.json"
    write_json(file, {**read_json(file), "init": "pretrained-slice", "start_test_accuracy": 0.4321})
    head, kinds, *rows = winners_text(tmp_path).splitlines()
    assert "Search accuracy Test accuracy" in " ".join(head.split())
    assert kinds.split()[:4] == ["inherited", "inherited", "sliced", "retrained"]
    assert [row.split().count("43.21") for row in rows[:3]] == [0, 1, 0]


def test_the_largest_network_is_there_to_compare_with(run_folder: Path, page: Page) -> None:
    largest = read_json(run_folder / "search/result.json")["trajectory"][0]
    tested = read_json(run_folder / "supernet/result.json")["test_accuracy"]["largest"]
    accuracies = [interval(largest["accuracy"], 216), interval(tested, 359), "–"]
    assert page.rows[4][:7] == ["largest", "float32", *accuracies, f"{largest['latency_ms']:.3f}", "–"]


def test_exported_files_say_what_they_take_and_which_units_run_them(page: Page) -> None:
    cells = {cell for row in page.rows for cell in row}
    assert "9.1" in cells and "ONNX Runtime (cpu 97%, elsewhere 3%)" in cells and "timm" in cells


def test_the_supernets_recipe_is_named(page: Page) -> None:
    assert any("kl loss, sandwich sampling, norms for each width · 30 epochs" in text for text in page.words["p"])


def test_every_step_of_the_trajectory_is_in_its_table(run_folder: Path, page: Page) -> None:
    trajectory = read_json(run_folder / "search/result.json")["trajectory"]
    steps = [row for row in page.rows if len(row) == 10 and row[0].isdigit()]
    assert [row[0] for row in steps] == [str(p["step"]) for p in trajectory]
    assert steps[0][1] == "largest network"
    action = trajectory[1]["action"]
    assert steps[1][1] == f"{action['choice']}: {action['before']} → {action['after']}"


def test_a_search_without_a_trajectory_shows_all_that_it_evaluated(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    result = read_json(run / "search/result.json")
    trajectory = result.pop("trajectory")
    evaluations = [{"index": i, **p} for i, p in enumerate(trajectory[1:])]  # without the largest
    for point in (*evaluations, *result["winners"]):
        del point["step"], point["action"], point["pareto"]
    winners = [{**w, "index": i} for i, w in enumerate(result["winners"])]
    front = {"front": [0, 2], "evaluations": evaluations, "winners": winners}
    write_json(run / "search/result.json", {**result, **front, "strategy": "tpe"})
    shown = Page(write_report(run).read_text(encoding="utf-8"))
    rows = [row for row in shown.rows if len(row) == 10 and row[0].isdigit()]
    assert [row[0] for row in rows] == [str(e["index"]) for e in evaluations]
    assert [row[9] for row in rows[:4]] == ["winner-1", "winner-2", "winner-3", ""]
    assert "largest" not in [row[0] for row in shown.rows if row]


def test_commands_are_in_the_order_of_use(page: Page) -> None:
    names = dict.fromkeys(command.split(" --")[0] for command in page.commands)
    assert [re.findall(r"-m (\S+)", name)[0] for name in names] == [
        "nas.train_supernet",
        "latency_lut.build",
        "latency_lut.validate",
        "nas.search",
        "nas.retrain",
        "nas.export",
    ]


def test_what_would_have_been_picked_instead(tmp_path: Path) -> None:
    run = tmp_path / "run"
    add_search(run, make_run(run))
    networks = (WHOLE, WINNER, NARROWED, PRUNED)
    found = baselines(*networks, missing={"as-fast-as-winner-2": EVIL})
    found.write(run)
    html = write_report(run).read_text(encoding="utf-8")
    page = Page(html)
    assert page.headings[0] == "What you would have picked instead"
    assert page.words["strong"][0] == verdict(found)
    assert page.words["li"] == list(sentences(found)) and EVIL not in html
    texts = [[cell.replace("\n", "") for cell in row] for row in rows(found)]
    kinds = {text[1] for text in texts}
    assert [row for row in page.rows if len(row) == len(HEAD) and row[1] in kinds] == texts
    (curve,) = re.findall(r'data-plot="curve">(.*)</script>', html)
    marks = next(trace for trace in json.loads(curve)["data"] if trace["name"].startswith("not from the search"))
    assert marks["x"] == [n.mes for n in networks if n is not WINNER]
    assert verdict(found) in winners_text(run)
    assert found.command in page.commands


def test_accuracies_of_the_test_split_are_on_no_axis_of_the_search_split(page: Page, run_folder: Path) -> None:
    html = (run_folder / "report.html").read_text(encoding="utf-8")
    (before,) = re.findall(r'<p class="axis y">([^<]*)</p>\n<div id="curve"', html)
    assert before == "accuracy, %"
    (curve,) = re.findall(r'data-plot="curve">(.*)</script>', html)
    traces = {trace["name"]: trace for trace in json.loads(curve)["data"]}
    splits = {"winners before training": "216 search images", "winners retrained": "359 test images"}
    for name, images in splits.items():
        trace = traces[f"{name}, {images}"]
        assert len(trace["error_y"]["array"]) == len(trace["x"]) and min(trace["error_y"]["array"]) > 0


def test_it_is_said_how_an_image_must_be_prepared(page: Page) -> None:
    steps = dict(zip(page.words["dt"], page.words["dd"], strict=True))
    assert steps["Size"] == preprocessing(32)
    assert "mean (0.485, 0.456, 0.406)" in steps["Values"] and "(0.229, 0.224, 0.225) of R, G, B" in steps["Values"]
    assert "(N, 3, 32, 32)" in steps["Order"] and "0, 1, 2" in steps["Answer"]


def add_inspection(run: Path, name: str) -> Path:
    """What nas.evaluate finds of a retrained network of two classes."""
    trained = read_json(run / f"retrain/{name}/result.json")
    rate = {"value": trained["test_accuracy"], "low": 0.9, "high": 1.0}
    photo = {"label": 0, "answer": 1, "chance": 0.7, "jpeg": "AAAA"}
    network = {"name": f"{name} retrained", "arch": trained["arch"], "top1": rate, "per_class": [rate, rate]}
    network |= {"confusion": [[170, 10], [5, 174]], "right": [], "wrong": [photo]}
    network["weights_sha256"] = sha256(run / f"retrain/{name}/model.safetensors")
    found = {
        "command": "python -m nas.evaluate",
        "split": "test",
        "num_images": 359,
        "space": "x",
        "networks": [network],
    }
    found |= {"calibration_images": 0, "classes": ["cat", "dog"], "class_sizes": [180, 179]}
    path = run / f"evaluate/{name}-retrained-test.json"
    write_json(path, found)
    return path


def test_the_recommended_network_is_shown_class_by_class(tmp_path: Path) -> None:
    run = tmp_path / "run"
    add_search(run, space := make_run(run))
    add_retrain(run, space)
    baselines(WHOLE, WINNER, NARROWED, PRUNED).write(run)
    look = add_inspection(run, "winner-1")
    html = write_report(run).read_text(encoding="utf-8")
    page = Page(html)
    assert page.words["strong"][0].startswith("Take winner-1")
    assert {'data-plot="classes"' in html, 'data-plot="mistakes-0"' in html} == {True}
    assert page.words["figcaption"] == ["cat, taken for dog (70 %)"]
    write_text(run / "retrain/winner-1/model.safetensors", "new")
    assert 'data-plot="classes"' not in write_report(run).read_text(encoding="utf-8"), "it is of other weights"
    add_inspection(run, "winner-1")
    assert 'data-plot="classes"' in write_report(run).read_text(encoding="utf-8")
    write_json(look, {**read_json(look), "classes": ["cat"]})
    with pytest.raises(UserError, match=r"winner-1-retrained-test\.json"):
        write_report(run)


def test_the_report_says_when_a_compared_network_was_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    add_search(run, space := make_run(run))
    add_retrain(run, space)
    weights = run / WINNER.folder / "model.safetensors"
    baselines(WHOLE, replace(WINNER, weights_sha256=sha256(weights))).write(run)
    said = "winner-1: trained again since this comparison; run nas.baselines again"
    assert said not in write_report(run).read_text(encoding="utf-8")
    assert said not in winners_text(run)
    write_text(weights, "trained for longer")
    assert said in write_report(run).read_text(encoding="utf-8")
    assert said in winners_text(run)


def test_the_network_to_take_is_that_of_the_verdict() -> None:
    for found in (baselines(), baselines(WHOLE, WINNER), baselines(WHOLE), baselines(WINNER)):
        network = taken(found)
        said = verdict(found)
        assert (
            said.startswith("This run has no")
            if network is None
            else network.folder.split("/")[-1] in said or (network.kind == "whole" and "as it is" in said)
        )


def test_what_was_searched_is_looked_at_where_nothing_else_recommends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    add_search(run, space := make_run(run))
    add_retrain(run, space)
    path = run / "search/result.json"
    write_json(path, {**read_json(path), "recommended": {"name": "winner-2", "sentence": f"Take winner-2. {EVIL}"}})
    add_inspection(run, "winner-2")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.words["strong"][0] == f"Take winner-2. {EVIL}" and page.words["figcaption"]


def test_the_report_says_why_it_shows_no_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    add_search(run, space := make_run(run))
    add_retrain(run, space)
    baselines(WHOLE, WINNER).write(run)
    report(Config(run=str(run)))  # without weights
    assert "the page does not show winner-1 class by class: " in capsys.readouterr().out


STAGES = ["run", "supernet", "search", "retrain", "export"]
NEXT = {
    "run": "python -m nas.train_supernet --run {} --resume",
    "supernet": "python -m nas.search --run {}",
    "search": "python -m nas.retrain --run {}",
    "retrain": "python -m nas.export --run {}",
}


@pytest.mark.parametrize("last", STAGES)
def test_partial_runs_show_what_they_have(tmp_path: Path, last: str) -> None:
    folder = tmp_path / "run"
    space = make_run(folder)
    add = {
        "supernet": lambda: add_supernet(folder),
        "search": lambda: add_search(folder, space),
        "retrain": lambda: add_retrain(folder, space),
        "export": lambda: add_export(folder),
    }
    for stage in STAGES[1 : STAGES.index(last) + 1]:
        add[stage]()
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    headings = {
        "supernet": ["Training", "Commands, in order"],
        "search": ["The curve", "The networks", "The search, step by step"],
        "retrain": ["How to prepare an image"],
        "export": ["Exported files"],
    }
    expected = [h for stage, names in headings.items() if STAGES.index(stage) <= STAGES.index(last) for h in names]
    assert sorted(page.headings) == sorted(expected)
    assert page.words.get("code", []) == ([NEXT[last].format(folder)] if last in NEXT else [])
    assert ("retrain-loss" in [a.get("id") for _, a in page.tags]) == (STAGES.index(last) >= 3)


def test_search_by_size_alone_has_no_latency(tmp_path: Path) -> None:
    space = make_run(tmp_path)
    add_search(tmp_path, space, with_latency=False)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert [text for text in page.words["th"] if text.startswith(("Latency", "Test"))] == []
    assert len(page.networks[0]) == len(["name", "precision", "accuracy", "parameters", "MACs", "memory", "MES"])
    score = "".join(page.words["span"])
    assert "parameters / 3 M" in score
    assert "latency / 1 ms" not in score


def test_two_searches_are_both_shown(tmp_path: Path) -> None:
    space = make_run(tmp_path)
    add_search(tmp_path, space)
    text = (tmp_path / "search/result.json").read_text()
    (tmp_path / "search-2").mkdir()
    (tmp_path / "search-2/result.json").write_text(text.replace('"winner-', '"search-2-winner-'))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    names = [row[0] for row in page.networks]
    assert names[:-1] == [f"{prefix}winner-{i}" for prefix in ("", "search-2-") for i in (1, 2, 3)]
    assert [name.partition(":")[0] for name in page.words["summary"][:2]] == ["search", "search-2"]


PHONE = Objective((Term("latency_ms_phone", 2.0, 1.0), Term("num_params", 3e6, 0.5)), {})


def add_phone_search(run: Path, path: str) -> None:
    """Of the same networks: the latency has another name and unit, so MES is twice as much; on fewer images."""
    result = json.loads((run / "search/result.json").read_text().replace("latency_ms", "latency_ms_phone"))
    for points in (result["trajectory"], result["winners"]):
        for point in points:
            point["mes"] *= 2
    for winner in result["winners"]:
        winner["name"] = f"search-two-{winner['name']}"
    tables = {"latency_ms_phone": {"path": path, "sha256": None}}
    changed = {"objective": PHONE.to_json(), "tables": tables, "num_images": 50}
    write_json(run / "search-two/result.json", result | changed)


def test_searches_that_cannot_be_compared_share_no_table_and_no_axis(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    add_table(tmp_path / "tables/phone.json", get_space("efficientformerv2-nano", 32, 10))
    add_phone_search(run, str(tmp_path / "tables/phone.json"))
    html = write_report(run).read_text(encoding="utf-8")
    page = Page(html)
    two = "search-two (accuracy on 50 of 216 search images)"
    uses = ["Latency of search", "Latency phone of search-two"]
    assert page.words["h3"][:4] == ["search", two, "search", two]
    assert [heading for heading in page.words["h3"] if heading.startswith("Latency")] == uses
    names = [row[0] for row in page.networks]
    ours = ["winner-1", "winner-2", "winner-3"]
    assert names == [*ours, "largest", *(f"search-two-{name}" for name in ours), "largest"]
    scores = [
        {x for trace in json.loads(data)["data"] for x in trace["x"]}
        for data in re.findall(r'data-plot="curve(?:-1)?">(.*)</script>', html)
    ]
    assert len(scores) == 2 and scores[1] == {2 * score for score in scores[0]}
    first, formula, *_ = html.split(f"<h3>{two}</h3>")
    assert "(latency / 1 ms)" in first and "(latency phone / 2 ms)" in formula and "latency / 1 ms" not in formula
    text = winners_text(run)
    assert text.startswith("search: MES = 100 · (latency / 1 ms)^-1 · (parameters / 3 M)^-0.5\n")
    assert f"\n{two}: MES = 100 · (latency phone / 2 ms)^-1" in text


def test_searches_with_one_objective_share_a_table_and_an_axis_whatever_their_limits(tmp_path: Path) -> None:
    space = make_run(tmp_path)
    add_search(tmp_path, space)
    result = read_json(tmp_path / "search/result.json")
    limited = {**result["objective"], "limits": {"latency_ms": 1.0}}
    write_json(tmp_path / "search-2/result.json", {**result, "objective": limited})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.words["h3"][:2] == ["search, search-2"] * 2
    assert [attrs["id"] for _, attrs in page.tags if "curve" in (attrs.get("id") or "")] == ["curve"]


def test_a_table_is_one_however_its_path_is_spelled(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    result = read_json(run / "search/result.json")
    path = result["tables"]["latency_ms"]["path"]
    for name, place in (
        ("search", f"{tmp_path}/gone.json"),
        ("search-2", path),
        ("search-3", f"{run}/../tables/t.json"),
    ):
        tables = {"latency_ms": {"path": place, "sha256": sha256(Path(path))}}
        write_json(run / name / "result.json", {**result, "tables": tables})
    html = write_report(run).read_text(encoding="utf-8")
    page = Page(html)
    assert page.words["h3"][:2] == ["search, search-2, search-3"] * 2
    uses = "Latency of search, latency of search-2, latency of search-3"
    assert [heading for heading in page.words["h3"] if heading.startswith("Latency")] == [uses]
    assert "Not shown" not in html


def test_busy_tables_and_exports_are_named_beside_their_latencies(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    assert "WARNING" not in write_report(run).read_text(encoding="utf-8") + winners_text(run)
    path = tmp_path / "tables/t.json"
    table = read_json(path)
    table["provenance"] |= {"busy": True, "anchor_drift": 2 * MAX_DRIFT}
    write_json(path, table)
    validation = path.with_suffix(".validation.json")
    write_json(validation, {**read_json(validation), "busy": True})
    exported = read_json(run / "export/winner-2/result.json")
    exported["files"]["onnx"]["latency_ms"]["busy"] = True
    write_json(run / "export/winner-2/result.json", exported)
    of_table = ("the machine was busy when this table was measured", "the device changed its speed while this table")
    of_export = "the machine was busy when winner-2 was measured; export again"
    text, page = winners_text(run), Page(write_report(run).read_text(encoding="utf-8"))
    assert [part in text for part in (*of_table, of_export)] == [True] * 3
    said = page.words["strong"]
    for part, count in (*((part, 2) for part in of_table), (of_export, 1), ("when the table was validated", 1)):
        assert sum(part in warning for warning in said) == count, part


def test_a_table_that_is_no_longer_what_was_searched_with_is_not_shown_for_it(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    result = read_json(run / "search/result.json")
    result["tables"]["latency_ms"]["sha256"] = "of another table"
    write_json(run / "search/result.json", result)
    assert "t.json has changed since it was searched with" in write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize("change", ["figures", "device", "space"])
def test_a_validation_of_another_table_is_not_shown_for_it(change: str, tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    assert "held-out networks" in write_report(run).read_text(encoding="utf-8")
    path = tmp_path / "tables/t.validation.json"
    validation = read_json(path)
    if change == "figures":
        validation["networks"][0]["predicted_ms"] *= 1.01
    elif change == "device":
        validation["runtime"]["device"] = "another"
    else:
        validation["networks"][0]["arch"] = {"of": "another space"}
    write_json(path, validation)
    html = write_report(run).read_text(encoding="utf-8")
    assert "calibration networks" in html and "held-out networks" not in html and "latency_lut.validate" not in html


def add_pruning(run: Path, name: str, *, digest: str, images: int = 359, maybe_seen: bool = False) -> None:
    accuracy = {stage: {"test": share} for stage, share in (("dense", 0.95), ("pruned", 0.5), ("finetuned", 0.94))}
    costs = {"dense": 8_000_000, "pruned": 3_000_000}
    networks = {name: {"macs": macs, "num_params": macs} for name, macs in costs.items()}
    result: dict[str, Any] = {"command": "python -m nas.prune", "accuracy": accuracy, "networks": networks}
    result |= {"num_images": {"test": images}, "may_have_seen_test": maybe_seen}
    write_json(run / "prune" / name / "result.json", result)
    write_json(run / "prune" / name / "config.json", {"command": "prune", "data_digest": digest})


def test_prunings_and_evaluations_are_linked(tmp_path: Path) -> None:
    make_run(tmp_path)
    digest = read_json(tmp_path / "run.json")["splits"]["digest"]
    add_pruning(tmp_path, "a #1", digest=digest)
    add_pruning(tmp_path, "b", digest="of other images", images=1000, maybe_seen=True)
    found = {"command": "python -m nas.evaluate", "split": "test", "num_images": 359, "networks": [{"name": EVIL}]}
    write_json(tmp_path / "evaluate/mine.json", found)
    write_json(tmp_path / "evaluate/interrupted.json", found)
    (tmp_path / "evaluate/mine.html").write_text("")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    assert [row for row in page.rows if row] == [
        ["a #1", with_interval(0.95, 359), with_interval(0.94, 359), "359, test split", "37.50 %"],
        [
            "b",
            with_interval(0.95, 1000),
            with_interval(0.94, 1000),
            "1,000, maybe seen, others than the run’s",
            "37.50 %",
        ],
        ["mine", EVIL, "test", "359"],
    ]
    assert [a["href"] for tag, a in page.tags if tag == "a"] == [
        "prune/a%20%231/report.html",
        "prune/b/report.html",
        "evaluate/mine.html",
    ]
    assert EVIL not in html
    assert page.commands == ["python -m nas.prune", "python -m nas.evaluate"]


def next_command(run: Path) -> list[str]:
    """Without `python -m` and the run."""
    command = Page(write_report(run).read_text(encoding="utf-8")).words.get("code", [""])[0]
    return command.removeprefix("python -m ").replace(f" --run {run}", "").split()


def test_the_next_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    space = make_run(run)
    add_supernet(run)
    add_search(run, space)
    add_retrain(run, space, ("winner-2",))
    assert next_command(run) == ["nas.retrain", "--winners", "winner-1", "winner-3"]
    report_command.main(["--run", str(run)])
    assert capsys.readouterr().out.endswith(f"next: python -m nas.retrain --run {run} --winners winner-1 winner-3\n")
    write_json(run / "retrain/winner-3/config.json", {})
    assert next_command(run) == ["nas.retrain", "--resume", "--winners", "winner-3"]
    write_json(run / "retrain/winner-3/stopped.json", {})
    assert next_command(run) == ["nas.retrain", "--winners", "winner-1"]
    add_retrain(run, space, ("winner-1",))
    assert next_command(run) == ["nas.export"]
    add_export(run)
    add_phone_search(run, "gone.json")
    assert next_command(run) == ["nas.retrain", "--search", "search-two"]
    (run / "search-two/result.json").unlink()
    (run / "export/winner-2/result.json").unlink()
    assert next_command(run) == ["nas.export", "--winners", "winner-2"]
    (run / "export/winner-1/result.json").unlink()
    assert next_command(run) == ["nas.export"]
    add_export(run)
    assert next_command(run) == []


def test_the_newest_search_that_recommends_a_network_says_which_to_train(tmp_path: Path) -> None:
    """The newest of all met no limit; by their names search-2 is after search-10."""
    run = tmp_path / "run"
    add_supernet(run)
    add_search(run, make_run(run, image_size=64, space="efficientformerv2-nano+ssdlite"))
    found = read_json(run / "search/result.json")
    for i, name in enumerate(("search-2", "search-10", "search")):
        recommended = {"recommended": {"name": f"{name}-winner-1", "sentence": "Take it."}} if name != "search" else {}
        write_json(run / name / "result.json", {**found, **recommended})
        os.utime(run / name / "result.json", (i, i))
    assert next_command(run) == ["nas.detect", "--backbone", f"{run}:search-10-winner-1"]
    for name in ("search-2", "search-10"):
        write_json(run / name / "result.json", found)
    assert next_command(run) == []


def test_what_was_trained_before_other_limits_picked_other_winners_is_still_shown(tmp_path: Path) -> None:
    space = make_run(tmp_path)
    add_search(tmp_path, space)
    add_retrain(tmp_path, space)
    result = read_json(tmp_path / "search/result.json")
    first, *others = result["winners"]
    write_json(tmp_path / "search/result.json", {**result, "winners": others, "earlier_winners": [first]})
    rows = {row[0]: row for row in Page(write_report(tmp_path).read_text(encoding="utf-8")).networks}
    assert list(rows) == ["winner-2", "winner-3", "winner-1", "largest"]
    assert rows["winner-1"][2] == interval(first["accuracy"], 216)


def test_a_winner_trained_once_more_has_a_row_of_its_own(tmp_path: Path) -> None:
    space = make_run(tmp_path)
    add_search(tmp_path, space)
    add_retrain(tmp_path, space)
    again = tmp_path / "retrain/winner-2-scratch"
    again.mkdir()
    result = json.loads((tmp_path / "retrain/winner-2/result.json").read_text())
    (again / "result.json").write_text(json.dumps({**result, "name": again.name, "test_accuracy": 0.4321}))
    rows = {row[0]: row for row in Page(write_report(tmp_path).read_text(encoding="utf-8")).networks}
    assert list(rows) == ["winner-1", "winner-2", "winner-3", "winner-2-scratch", "largest"]
    assert rows["winner-2-scratch"][4] == interval(0.4321, 359) != rows["winner-2"][4]
    assert rows["winner-2-scratch"][5:] == rows["winner-2"][5:]


def test_table_accuracy_is_that_of_its_networks(run_folder: Path, page: Page) -> None:
    table = read_json(run_folder.parent / "tables/t.json")
    networks = table["calibration"]["networks"]
    mape = np.mean([abs(n["predicted_ms"] / n["min_ms"] - 1) for n in networks])
    rows = {row[0]: row for row in page.rows if len(row) == 7}
    assert rows["calibration networks (fitted)"][1] == f"{100 * mape:.2f} %"
    assert rows["18 held-out networks"][1:] == ["1.80 %", "-0.40 %", "95 %", "100 %", "0.990", "–"]
    assert errors([(1.1, 1.0), (0.98, 1.0)]) == pytest.approx(
        {"mape": 0.06, "bias": 0.04, "within_5_percent": 0.5, "within_10_percent": 0.5}
    )


def test_a_table_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    space = make_run(tmp_path)
    add_search(tmp_path, space, str(tmp_path / "gone.json"))
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Not shown: cannot read" in html


def test_a_table_that_has_moved_with_the_run_is_found(tmp_path: Path) -> None:
    whole_run(tmp_path / "old/run")
    shutil.move(tmp_path / "old/tables", tmp_path / "old/run/tables")
    shutil.move(tmp_path / "old", tmp_path / "new")
    html = write_report(tmp_path / "new/run").read_text(encoding="utf-8")
    assert "Not shown" not in html and "latency = " in html
    assert f"--table {tmp_path}/new/run/tables/t.json" in html


def test_a_line_of_metrics_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    make_run(tmp_path)
    write_lines(tmp_path / "supernet/metrics.jsonl", [{"step": i, "epoch": i, "loss": 1.0} for i in range(3)])
    with (tmp_path / "supernet/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    html = write_report(tmp_path).read_text(encoding="utf-8")
    (data,) = re.findall(r'data-plot="supernet-loss">(.*)</script>', html)
    (trace,) = json.loads(data)["data"]
    assert trace["x"] == [0, 1, 2]


def test_a_loss_that_is_not_positive_gets_a_linear_axis(tmp_path: Path) -> None:
    make_run(tmp_path)
    write_lines(tmp_path / "supernet/metrics.jsonl", [{"step": i, "epoch": i, "loss": 1.0 - i} for i in range(3)])
    html = write_report(tmp_path).read_text(encoding="utf-8")
    (data,) = re.findall(r'data-plot="supernet-loss">(.*)</script>', html)
    assert json.loads(data)["layout"]["yaxis"].get("type") != "log"


def test_unreadable_result_is_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "search").mkdir()
    (tmp_path / "search/result.json").write_text("{")
    with pytest.raises(UserError, match=r"search/result.json is not JSON"):
        write_report(tmp_path)


def bars(drawing: str, css: str) -> list[tuple[str, float, float]]:
    """(what the pointer shows, width, height) of each bar of that class, in the order of execution."""
    pattern = rf'<rect class="{css}" x="[^"]*" y="[^"]*" width="([^"]*)" height="([^"]*)"><title>([^<]*)'
    return [(text, float(w), float(h)) for w, h, text in re.findall(pattern, drawing)]


def test_a_network_is_drawn_block_by_block_over_the_largest_one() -> None:
    space = get_space("efficientformerv2")
    s0 = space.named["s0"]
    drawing, blocks = draw_arch(space, s0), space.lower(s0)
    drawn = bars(drawing, r"block kind\d")
    assert [text.split(": ")[-1].split(",")[0] for text, _, _ in drawn] == [b.kind.replace("_", " ") for b in blocks]
    heights, macs = zip(
        *((height, block.macs) for (_, _, height), block in zip(drawn, blocks, strict=True)), strict=True
    )
    assert np.allclose(np.divide(heights[:-1], heights[0]), np.divide(macs[:-1], macs[0]), rtol=0.05)  # but the head's
    shares = [width / BAR for _, width, _ in drawn]
    assert shares[1] == pytest.approx(32 / 40, abs=0.01) and shares[-2] == pytest.approx(176 / 384, abs=0.01)
    assert len(bars(drawing, "ghost")) == len(space.lower(space.largest)), "no block is as large"
    assert bars(draw_arch(space, space.largest), "ghost") == []
    said = [re.sub("<[^>]*>", "", line) for line in re.findall(r'class="what">(.*?)</span></div>', drawing)]
    channels = [line.partition(" channels")[0] for line in said]
    assert channels == ["32 of 40", "48 of 80", "96 of 192", "176 of 384", "176 of 384"]
    assert "6 of 15 ffn" in said[2] and "2 of 15 attention" in said[2]
    assert 'aria-label="channels 32, 48, 96, 176; ffn 2, 2, 6, 4; attention 0, 0, 2, 2"' in drawing


def test_every_kind_is_named_in_its_colour_beside_its_blocks() -> None:
    space = get_space("efficientformerv2")
    for line in draw_arch(space, space.largest).split('<div class="stage">')[1:]:
        named = dict(re.findall(r'<span class="(kind\d)">\d+ ([^<]*)</span>', line))
        drawn = re.findall(r'class="block (kind\d)"[^>]*><title>(?:\S*: )?([^,]*)', line)
        assert dict(drawn) == named
        assert all(f".{css} {{" in STYLE for css, _ in drawn)


@pytest.mark.parametrize("values", [[230.0, 3564.0], [0.61, 1.3], [95.0, 120.0], [1.0, 1.0], [0.001, 2000.0]])
def test_a_logarithmic_axis_has_several_ticks_within_its_values(values: list[float]) -> None:
    axis = log_axis(values)
    low, high = min(values), max(values)
    room = 1.1 if high / low < 1.1 else 1.0
    assert sum(low / room <= tick <= high * room for tick in axis["tickvals"]) >= 3
    assert axis["tickvals"] == sorted(axis["tickvals"])
    assert [float(text.replace(",", "")) for text in axis["ticktext"]] == pytest.approx(axis["tickvals"], rel=1e-3)


def test_a_search_in_two_precisions_names_that_of_each_network(tmp_path: Path) -> None:
    space = make_run(tmp_path)
    add_search(tmp_path, space)
    result = read_json(tmp_path / "search/result.json")
    for point in (*result["trajectory"][::2], *result["winners"][:1]):
        point["precision"] = "int8"
    other = {"latency_ms": {"path": "float.json", "sha256": "0" * 64}}
    write_json(tmp_path / "search/result.json", {**result, "other_tables": {"float32": other}})
    html = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    assert [row[1] for row in page.networks] == ["int8", "float32", "float32", "int8"]
    steps = [row[2] for row in page.rows if len(row) == 10 and row[0].isdigit()]
    assert steps == [p.get("precision", "float32") for p in result["trajectory"]]
    (curve,) = re.findall(r'data-plot="curve">(.*)</script>', html)
    names = [trace["name"] for trace in json.loads(curve)["data"]]
    assert {"search, int8: trajectory", "search, float32: trajectory", "search, int8: Pareto set"} <= set(names)
    assert "float.json" in html
