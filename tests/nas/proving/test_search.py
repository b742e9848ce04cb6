from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nas.proving.search import Config, find_search
from search_spaces import UserError
from tests.nas.synthetic_run import add_retrain, add_search, add_table, make_run


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table of a search in run `r` whose winner is retrained."""
    monkeypatch.chdir(tmp_path)
    space = make_run(run := Path("runs/r"))
    add_table(path := Path("runs/tables/phone.json"), space)
    add_search(run, space, str(path))
    add_retrain(run, space, ("winner-2",))
    return path


@pytest.mark.parametrize(
    ("backend", "runtime", "timed_by"),
    [
        ("litert", {"precision": "int8", "threads": 4}, ("int8", 4)),
        ("openvino", {"precision": "bfloat16", "threads": 1}, ("float32", 1)),
        ("coreml", {"precision": "float16", "threads": 0, "compute_unit": "cpu_and_ne"}, ("float32", 1)),
    ],
)
def test_networks_are_timed_by_onnx_runtime_where_the_tables_runtime_does_not_run(
    table: Path,
    backend: str,
    runtime: dict[str, object],
    timed_by: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("ai_edge_litert", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    data = json.loads(table.read_text())
    data["provenance"]["backend"] = backend
    data["provenance"]["runtime"] |= {"device": "A phone", "runtime": "Its Runtime", **runtime}
    table.write_text(json.dumps(data))
    found = find_search(Config(run="r"))
    here = found.backend.describe()
    assert (found.backend.name, here.precision, here.threads) == ("onnxruntime", *timed_by)
    said = capsys.readouterr().out
    assert f"Its Runtime, which has measured the table, does not run here: networks are timed by {here}" in said


def test_a_runtime_that_runs_here_times_without_a_word(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_search(Config(run="r")).backend.name == "onnxruntime"
    assert "does not run here" not in capsys.readouterr().out


def test_without_any_runtime_the_missing_one_is_named(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="onnxruntime is not installed; pip install"):
        find_search(Config(run="r"))
