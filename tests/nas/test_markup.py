"""Markup in whatever text the files hold that pages are made of: it is text there, too."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from torch.nn import Identity

from latency_lut import show
from latency_lut.backends.base import Job, OperatorTime, Runtime
from latency_lut.profiling.plot import document
from latency_lut.profiling.report import Network, Profile, Report, Varied
from latency_lut.tables.table import LatencyTable
from nas import compare, report
from nas.inspection.page import evaluation_page
from nas.pruning import recipe as recipes
from nas.pruning.page import write_page
from nas.runs import ClassesRun, load_run_info
from nas.runs.baselines import Baselines
from nas.runs.results import Evaluation, ExportedResult, PrunedResult, SupernetResult, TrainedResult
from nas.searching.result import SearchResult, check_whole
from search_spaces.command.typed import read_typed
from tests.nas.damage import put
from tests.nas.sent_files import use

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)><a href='javascript:alert(1)'>x</a>"
SEARCH = Annotated[SearchResult, check_whole]
FILES: dict[str, Any] = {
    "runs/r/run.json": ClassesRun,
    "runs/r/supernet/result.json": SupernetResult,
    "runs/r/search*/result.json": SEARCH,
    "runs/r/retrain/*/result.json": TrainedResult,
    "runs/r/export/*/result.json": ExportedResult,
    "runs/r/prune/p/result.json": PrunedResult,
    "runs/r/evaluate/*.json": Evaluation,
    "runs/r/baselines/*.json": Baselines,
    "t.json": LatencyTable,
}
# Texts that must be what they are for a page to be made: what is built, and where images and tables lie.
NEEDED = re.compile(
    r"space|data\..*|digest|path|sha256|form|blocks|networks\.\d+\.arch.*|(arch|rows|graphs|clamped)\..*"
)


def texts(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the texts of a document are, of long lists the first two."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from texts(item, (*place, name))
    elif isinstance(value, list):
        for i, item in enumerate(value[:2]):
            yield from texts(item, (*place, i))


def marked(document: Any, hint: Any) -> tuple[Any, int]:
    """The document with markup in every text that its reader takes, and in how many."""
    count = 0
    for place in texts(document):
        if any(NEEDED.fullmatch(".".join(map(str, place[i:]))) for i in range(len(place))):
            continue
        changed = put(document, list(place), f"{EVIL} {count}")
        try:
            read_typed(hint, changed, "it")
        except ValueError:  # a name, a choice
            continue
        document, count = changed, count + 1
    return document, count


@pytest.fixture(scope="module")
def folder(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The workplace with markup in all its files."""
    folder = tmp_path_factory.mktemp("marked")
    shutil.copytree(workplace, folder, dirs_exist_ok=True)
    for pattern, hint in FILES.items():
        for path in folder.glob(pattern):
            document, count = marked(json.loads(path.read_text()), hint)
            assert count > 0, path
            if "tables" in document and "winners" in document:
                document["tables"] = {name: {**table, "sha256": None} for name, table in document["tables"].items()}
            path.write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        yield folder


def check(html: str) -> None:
    """The markup is there as text alone, in the page and in what its plots read."""
    assert "alert(1)" in html
    plots = re.findall(r'<script type="application/json" data-plot="[\w-]+">(.*)</script>', html)
    assert html.count("<script") == 2 + len(plots) and not any(link.startswith("java") for link in _links(html))
    assert html.count("<img") == html.count('<figure><img src="data:image/jpeg;base64,')
    assert not re.search(r"<(script|img|a)\b", " ".join(_strings([json.loads(plot) for plot in plots])))


def _links(html: str) -> list[str]:
    """What the tags would load or lead to; what else their attributes say is text."""
    tags = re.findall(r"<[^>]*>", html.partition("<body>")[2])
    return [link for tag in tags for link in re.findall(r'\b(?:href|src|action|on\w+)=["\']?([^"\s]*)', _bare(tag))]


def _bare(tag: str) -> str:
    """The tag without the attributes that hold texts."""
    return re.sub(r'(?:data-head|alt|title|aria-label)="[^"]*"', "", tag)


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def test_the_report(folder: Path) -> None:
    report.main(["--run", "r"])
    check((folder / "runs/r/report.html").read_text())


def test_a_comparison(folder: Path) -> None:
    point = {"label": EVIL, "accuracy": 0.5, "mes": 100.0}
    (folder / "points.json").write_text(json.dumps([point]))
    compare.main(["runs/r", "--points", "points.json", "--out", "compared"])
    check((folder / "compared/comparison.html").read_text())


def test_an_evaluation(folder: Path) -> None:
    check(evaluation_page(json.loads((folder / "runs/r/evaluate/e.json").read_text())))


def test_a_pruning(folder: Path) -> None:
    place = folder / "runs/r/prune/p"
    _, structure = recipes.read(place).build()
    result = json.loads((place / "result.json").read_text())
    check(write_page(place, result, load_run_info(folder / "runs/r").splits.digest, structure, structure).read_text())


def test_a_profile() -> None:
    runtime = Runtime(EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, 1)
    operators = tuple(OperatorTime(f"{EVIL} {i}", EVIL, 1.0 + i) for i in range(3))
    alone = Network(EVIL, Job((1,), Identity))
    studied = [Network(EVIL, alone.job, varied=Varied(EVIL, i, random=i == 0)) for i in range(3)]
    for networks in ([alone], studied):
        profiles = tuple(Profile(network, 2.0, operators) for network in networks)
        page = document(Report(EVIL, EVIL, runtime, True, profiles))
        check(page)
        assert "<pre" not in page, "its tables are tables, which a phone can show"


def test_a_table(folder: Path) -> None:
    show.main(["t.json"])
    check((folder / "t.html").read_text())
