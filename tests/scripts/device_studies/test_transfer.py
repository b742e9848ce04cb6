"""The study of transferred tables, on fake devices whose costs are known."""

from __future__ import annotations

from pathlib import Path

import pytest

import search_spaces
from latency_lut.backends.android import adb
from latency_lut.backends.protocol import Settings
from latency_lut.measurement.build import build
from scripts.device_studies import transfer
from search_spaces.command.files import read_json
from tests.latency_lut.backends.test_android import BINARY, SERIAL, Files, InProcess
from tests.latency_lut.conftest import make_tiny
from tests.latency_lut.fake import FakeMachine
from tests.latency_lut.measurement.test_transfer import Other
from tests.toy_family import ToySpace


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


def test_a_phone_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its tables would be taken for another phone's, or this machine's."""
    monkeypatch.setattr("latency_lut.backends.litert.LiteRtBackend", Files)
    monkeypatch.setattr(adb, "_call", InProcess())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(search_spaces.SPACES, "toy", ToySpace)
    build(ToySpace(), FakeMachine(), Settings(samples=3, min_sample_ms=0.001), Path("t.json"))
    phone = ["--device", f"adb:{SERIAL}", "--benchmark-binary", BINARY, "--cores", "f0"]
    few = ["--measure", "8", "--samples", "2", "--num-archs", "3"]
    transfer.main(["--table", "t.json", "--backend", "litert", *phone, *few])
    (path,) = Path("runs/studies").rglob("result.json")
    assert "-litert-float32-1t-Google-Pixel-8-cores-f0-8-networks" in path.parent.name
    assert "Google Pixel 8, cores f0" in read_json(path)["to"]


def test_bars_that_are_missed_are_said() -> None:
    row = {"mape": 0.06, "within_5_percent": 0.5, "within_10_percent": 0.9, "spearman": None}
    result = {"from": "A", "to": "B", "num_archs": 9, "busy": True, "held_out": {"mape": 0.05}}
    text = transfer.report(result | {"predictors": {"transferred table": row}})
    assert "MISSED" in text and text.endswith("WARNING: the machine was busy during part of the study")
