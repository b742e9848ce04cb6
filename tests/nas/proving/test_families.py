"""Winners of several runs side by side: in one precision, answers as times."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas import runs
from nas.comparison.compare import Config
from nas.data import DataConfig, load_data
from nas.proving import families
from nas.proving.families import compare_families
from search_spaces import UserError
from tests.nas.proving.says import Says, says_1_in_int8


def search(name: str, precision: str) -> Any:
    """Of a run with one winner, which always says 0."""
    info = SimpleNamespace(image_size=32)
    winner = SimpleNamespace(name="winner-1", info=info, arch=None, model=lambda: Says(0))
    backend = SimpleNamespace(describe=lambda: "a machine")
    folder, space = Path("runs") / name, SimpleNamespace(name=name)
    return SimpleNamespace(run_folder=folder, precision=precision, space=space, backend=backend, winner=winner)


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compares runs a and b, searched in these precisions; `quantized` networks always say 1."""

    def compare(*precisions: str) -> Any:
        found = {f"runs/{name}": search(name, p) for name, p in zip("ab", precisions, strict=True)}
        monkeypatch.setattr(families, "find_search", lambda config: found[config.run])
        compare_families(Config(tuple(found), winners=True, device="cpu", out=str(tmp_path / "out")))

    data = load_data(DataConfig())
    monkeypatch.setattr(runs, "load_run_data", lambda _: data)
    monkeypatch.setattr(runs, "load_classes_info", lambda _: SimpleNamespace(splits=data.splits))
    monkeypatch.setattr(families, "_winners", lambda searches: [(s, s.winner) for s in searches])
    monkeypatch.setattr(families, "_timed", lambda winners, *_: ([(1.0, 1.0)] * len(winners), False))
    monkeypatch.setattr(families, "num_params", lambda *_: 1)
    monkeypatch.setattr(families, "macs", lambda *_: 1)
    monkeypatch.setattr("nas.proving.answers.quantized", says_1_in_int8)
    return compare


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_networks_answer_in_the_precision_that_they_are_timed_in(
    precision: str, compared: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    compared(precision, precision)
    labels = load_data(DataConfig()).test.labels
    said = capsys.readouterr().out
    assert f"{100 * (labels == int(precision == 'int8')).mean():.2f} (" in said
    assert ("accuracies are of int8, simulated" in said) == (precision == "int8")


def test_runs_in_different_precisions_are_refused(compared: Any) -> None:
    with pytest.raises(UserError, match=r"^the winners of runs/b are in int8, those of runs/a in float32; give runs"):
        compared("float32", "int8")
