"""The study of transferred tables, on fake devices whose costs are known."""

from __future__ import annotations

from pathlib import Path

import pytest

import search_spaces
from latency_lut.backends.protocol import Settings
from latency_lut.measurement.build import build
from scripts.device_studies import transfer
from search_spaces.command.files import read_json
from tests.latency_lut.conftest import make_tiny
from tests.latency_lut.fake import FakeMachine
from tests.latency_lut.measurement.test_transfer import Other


def test_a_transferred_table_stands_beside_the_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("latency_lut.backends.openvino.OpenVinoBackend", Other)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(search_spaces.SPACES, "tiny", make_tiny)
    build(make_tiny(), FakeMachine(), Settings(samples=3, min_sample_ms=0.001), Path("t.json"))
    flags = ["--table", "t.json", "--backend", "openvino", "--samples", "3", "--num-archs", "10"]
    transfer.main(flags)
    lines = capsys.readouterr().out.splitlines()
    result = read_json(Path(lines[-1]))
    found = result["predictors"]
    assert found["full table"]["mape"] < 1e-3
    assert found["transferred table"]["mape"] < 0.03 < found["MACs, line"]["mape"]
    assert result["held_out"]["num_networks"] == 20 and result["num_archs"] == 10
    assert "Spearman >= 0.98: reached" in lines[-2]

    tables = [path for name in ("full", "transferred") for path in tmp_path.rglob(f"{name}.json")]
    made = [path.stat().st_mtime_ns for path in tables]
    transfer.main(flags)
    assert len(made) == 2 and made == [path.stat().st_mtime_ns for path in tables]


def test_bars_that_are_missed_are_said() -> None:
    row = {"mape": 0.06, "within_5_percent": 0.5, "within_10_percent": 0.9, "spearman": None}
    result = {"from": "A", "to": "B", "num_archs": 9, "busy": True, "held_out": {"mape": 0.05}}
    text = transfer.report(result | {"predictors": {"transferred table": row}})
    assert "MISSED" in text and text.endswith("WARNING: the machine was busy during part of the study")
