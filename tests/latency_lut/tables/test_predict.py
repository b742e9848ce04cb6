from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from latency_lut.measurement.validate import Accuracy
from latency_lut.predict import main
from latency_lut.tables.predict import breakdown, comparison, predict, rounded_parts
from latency_lut.tables.table import LatencyTable
from search_spaces import SearchSpace, UserError, macs, num_params
from search_spaces.command.files import write_json


@pytest.fixture
def run_json(table_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*argv: str) -> Any:
        main(["--table", str(table_file), "--json", *argv])
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def calibrated(table: LatencyTable) -> LatencyTable:
    """The calibration of an additive machine is nearly 1 · sum + 0: this one's shows."""
    return replace(table, calibration=replace(table.calibration, scale=1.25, offset_ms=0.0123))


def test_parts_add_up_to_the_tables_prediction(calibrated: LatencyTable, nano: SearchSpace) -> None:
    rng = random.Random(0)
    for arch in (nano.smallest, nano.largest, *(nano.sample(rng) for _ in range(20))):
        prediction = predict(calibrated, nano, "it", arch)
        assert prediction.latency_ms == calibrated.latency_ms(nano, arch)
        parts = prediction.parts
        assert sum(part.ms for part in parts) + 0.0123 == pytest.approx(prediction.latency_ms, rel=1e-12)
        assert [part.key for part in parts] == [block.key for block in nano.lower(arch)]
        assert [part.row_ms for part in parts] == [calibrated.rows[part.key].min_ms for part in parts]
        assert all(part.ms == 1.25 * part.row_ms for part in parts)
        assert sum(part.share for part in parts) == pytest.approx(1 - 0.0123 / prediction.latency_ms)
        assert (prediction.macs, prediction.num_params) == (macs(nano, arch), num_params(nano, arch))
        for field in ("stage", "kind"):
            assert sum(prediction.ms_by(field).values()) == pytest.approx(prediction.latency_ms - 0.0123)


def test_what_is_printed_adds_up_exactly(calibrated: LatencyTable, nano: SearchSpace) -> None:
    rng = random.Random(1)
    for _ in range(20):
        prediction = predict(calibrated, nano, "it", nano.sample(rng))
        lines = [line for line in breakdown(prediction).splitlines()[2:] if not line.startswith("by ")]
        units = [round(float(re.findall(r"(-?\d+\.\d{4}) +-?[\d.]+%", line)[0]) * 10_000) for line in lines]
        assert len(units) == len(prediction.parts) + 2
        assert sum(units[:-1]) == units[-1]
        assert units[-1] == pytest.approx(prediction.latency_ms * 10_000, abs=0.51)


def test_rounding_takes_the_nearest_that_add_up() -> None:
    assert rounded_parts([0.00014, 0.00014, 0.00014]) == ["0.0002", "0.0001", "0.0001", "0.0004"]
    assert rounded_parts([0.00016, 0.00016, 0.00019]) == ["0.0002", "0.0001", "0.0002", "0.0005"]
    assert rounded_parts([0.5, -0.00006]) == ["0.5000", "-0.0001", "0.4999"]


def test_text_names_table_device_blocks_and_calibration(
    table: LatencyTable, table_file: Path, nano: SearchSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--table", str(table_file), "--arch", "largest"])
    text = capsys.readouterr().out
    assert text.startswith(f"{table_file}: efficientformerv2-nano at 32 px, ")
    assert "fake device" in text.splitlines()[0]
    assert f"latency = {table.calibration.scale:.4f} x sum of rows {table.calibration.offset_ms:+.4f} ms" in text
    for block in nano.lower(nano.largest):
        assert f"\n{block.name or 'head'} " in text
    assert "by kind: stem " in text
    assert f"error unknown; python -m latency_lut.validate --table {table_file}" in text


def test_several_archs_are_compared(
    table: LatencyTable, nano: SearchSpace, tmp_path: Path, run_json: Callable[..., Any]
) -> None:
    arch = nano.sample(random.Random(0))
    write_json(tmp_path / "mine.json", nano.to_json(arch))
    networks = run_json("--arch", "largest", str(tmp_path / "mine.json"))["networks"]
    assert [n["name"] for n in networks] == ["largest", str(tmp_path / "mine.json")]
    assert [n["latency_ms"] for n in networks] == [table.latency_ms(nano, a) for a in (nano.largest, arch)]
    assert networks[1]["arch"] == nano.to_json(arch)
    predictions = [predict(table, nano, name, a) for name, a in {"largest": nano.largest, "mine": arch}.items()]
    head, first, second = (line.split("  ") for line in comparison(predictions).splitlines())
    assert first[0] == "largest"
    assert "1.00" in "".join(first)
    assert f"{predictions[1].latency_ms / predictions[0].latency_ms:.2f}" in "".join(second)
    assert all(f"{kind} ms" in "  ".join(head) for kind in predictions[0].ms_by("kind"))


def test_bare_compares_the_named_archs_by_the_newest_table(
    table: LatencyTable,
    nano: SearchSpace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no table in runs/tables; build one"):
        main([])
    table.save(tmp_path / "runs/tables/t.json")
    main([])
    text = capsys.readouterr().out
    assert text.startswith("runs/tables/t.json: ")
    assert all(f"\n{name} " in text for name in nano.named)


PREDICTORS = ("table", "at_this_speed", "repeat_floor", "uncalibrated_sum", "macs", "num_params")


def write_validation(table: LatencyTable, nano: SearchSpace, table_path: Path) -> dict[str, Any]:
    rng = random.Random(3)
    archs = [nano.sample(rng) for _ in range(4)]
    validation = {
        "runtime": asdict(table.provenance.runtime),
        "busy": False,
        **{name: asdict(Accuracy(0.014, 0.0, 0.5, 0.75, None, None)) for name in PREDICTORS},
        "networks": [
            {"arch": nano.to_json(a), "predicted_ms": table.latency_ms(nano, a), "measured_ms": 1.0} for a in archs
        ],
    }
    table.save(table_path)
    write_json(table_path.with_suffix(".validation.json"), validation)
    return validation


def test_expected_error_is_that_of_the_validation(
    table: LatencyTable, nano: SearchSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    write_validation(table, nano, path)
    main(["--table", str(path)])
    assert "expected error 1.4% (75% of 4 networks within 10 %)" in capsys.readouterr().out
    main(["--table", str(path), "--json"])
    error = json.loads(capsys.readouterr().out)["expected_error"]
    assert error == {"mape": 0.014, "within_10_percent": 0.75, "num_archs": 4, "busy": False}


def test_a_table_from_elsewhere_is_to_be_validated_on_its_device(
    table: LatencyTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    source = replace(table.provenance, command="python -m latency_lut.build --from result.json")
    replace(table, provenance=source).save(path)
    main(["--table", str(path)])
    remedy = f"error unknown; python -m latency_lut.export --validate {path} --out held-out writes what measures it"
    assert remedy in capsys.readouterr().out


def test_a_validation_on_a_busy_machine_says_so_and_on_another_device_nothing(
    table: LatencyTable, nano: SearchSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    validation = write_validation(table, nano, path)
    write_json(path.with_suffix(".validation.json"), {**validation, "busy": True})
    main(["--table", str(path)])
    assert "within 10 %, on a busy machine)" in capsys.readouterr().out
    elsewhere = {**validation, "runtime": {**validation["runtime"], "device": "another"}}
    write_json(path.with_suffix(".validation.json"), elsewhere)
    main(["--table", str(path)])
    assert "error unknown" in capsys.readouterr().out


def test_a_validation_of_another_build_says_nothing(
    table: LatencyTable, nano: SearchSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    write_validation(table, nano, path)
    replace(table, calibration=replace(table.calibration, scale=1.1)).save(path)
    main(["--table", str(path)])
    assert "error unknown" in capsys.readouterr().out


def test_a_validation_of_another_space_says_nothing(
    table: LatencyTable, nano: SearchSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    validation = write_validation(table, nano, path)
    validation["networks"][0]["arch"] = {"of": "another space"}
    write_json(path.with_suffix(".validation.json"), validation)
    main(["--table", str(path)])
    assert "error unknown" in capsys.readouterr().out


@pytest.mark.parametrize("data", [[], {}, {"networks": 3}, {"networks": [], "table": {"mape": None}}])
def test_a_damaged_validation_is_named(data: Any, table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "t.json")
    write_json(tmp_path / "t.validation.json", data)
    with pytest.raises(UserError, match=r"t\.validation\.json is not of this version .*; make it again with "):
        main(["--table", str(tmp_path / "t.json")])


def test_bad_input(table: LatencyTable, table_file: Path, tmp_path: Path) -> None:
    other, wrong = tmp_path / "other.json", tmp_path / "wrong.json"
    write_json(other, {"space": "efficientformerv2", "width": []})
    write_json(wrong, {"width": [1]})
    lacking = tmp_path / "lacking.json"
    replace(table, rows=dict(list(table.rows.items())[1:])).save(lacking)
    known = str(table_file)
    for name, path, message in (
        ("s9", known, "--arch is 's9' with a table of efficientformerv2-nano: cannot read s9"),
        (str(other), known, f"{other} is an arch of efficientformerv2, {known} is a table of efficientformerv2-nano; "),
        (str(wrong), known, "arch has no field present"),
        ("largest", str(lacking), f"{lacking}: the table lacks 1 blocks"),
        ("largest", "none.json", "cannot read none.json"),
    ):
        with pytest.raises(UserError, match=re.escape(message)) as error:
            main(["--table", path, "--arch", name])
        assert "\n" not in str(error.value)


def test_a_table_of_a_busy_machine_says_so(
    table: LatencyTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = replace(table, provenance=replace(table.provenance, busy=True, anchor_drift=0.2))
    busy.save(tmp_path / "busy.json")
    main(["--table", str(tmp_path / "busy.json"), "--arch", "smallest"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("WARNING: the machine was busy when this table was measured")
    assert lines[-1].startswith("WARNING: the device changed its speed")
    main(["--table", str(tmp_path / "busy.json"), "--arch", "smallest", "--json"])
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 2
