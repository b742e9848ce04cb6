from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latency_lut.tables.table import SCHEMA, LatencyTable, newest_table
from search_spaces import SearchSpace, UserError, get_space
from tests.latency_lut.fake import OVERHEAD_NS, cost_ns


def test_predicts_what_the_machine_takes(table: LatencyTable, nano: SearchSpace) -> None:
    rng = random.Random(0)
    for arch in (nano.largest, nano.smallest, *(nano.sample(rng) for _ in range(20))):
        truth_ms = (OVERHEAD_NS + sum(cost_ns(block.key) for block in nano.lower(arch))) / 1e6
        assert table.latency_ms(nano, arch) == pytest.approx(truth_ms, rel=1e-4)


def test_a_batch_equals_single_predictions_exactly(table: LatencyTable, nano: SearchSpace) -> None:
    rng = random.Random(0)
    archs = [nano.largest, nano.smallest, *(nano.sample(rng) for _ in range(200))]
    predicted = table.predictor(nano)(nano.encode(archs))
    assert predicted.dtype == np.float64
    assert predicted.tolist() == [table.latency_ms(nano, arch) for arch in archs]
    assert table.predictor(nano)(nano.encode([])).shape == (0,)


def test_saved_and_loaded_is_equal(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "again.json")
    assert LatencyTable.load(tmp_path / "again.json") == table


def test_rows_follow_from_the_evidence_in_the_file(table: LatencyTable, nano: SearchSpace) -> None:
    assert table.rows.keys() == nano.all_blocks().keys()
    for row in table.rows.values():
        from_samples = sum(w * min(table.graphs[graph].samples_ms) for graph, w in row.terms.items())
        assert row.min_ms == pytest.approx(from_samples)


def test_a_table_of_networks_as_they_are_trained_is_refused(table: LatencyTable, nano: SearchSpace) -> None:
    with pytest.raises(UserError, match="the table's form of networks is trained, not deployed; build a new one"):
        replace(table, form="trained").check(nano)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("efficientformerv2", r"space is efficientformerv2-nano, not efficientformerv2;"),
        (("efficientformerv2-nano", 64), r"image size is 32, not 64;"),
        (("efficientformerv2-nano", 32, 100), r"number of classes is 10, not 100;"),
    ],
)
def test_a_table_of_something_else_is_refused(table: LatencyTable, space: Any, message: str) -> None:
    other = get_space(*((space,) if isinstance(space, str) else space))
    for use in (table.check, table.predictor):
        with pytest.raises(UserError, match=message):
            use(other)


def test_missing_blocks_are_listed(table: LatencyTable, nano: SearchSpace) -> None:
    missing = list(table.rows)[10:17]
    partial = replace(table, rows={key: row for key, row in table.rows.items() if key not in missing})
    with pytest.raises(UserError) as error:
        partial.predictor(nano)
    assert "lacks 7 blocks" in str(error.value)
    assert all(key in str(error.value) for key in missing)

    needed = nano.lower(nano.largest)[5]
    without = replace(table, rows={key: row for key, row in table.rows.items() if key != needed.key})
    with pytest.raises(UserError, match="no block ") as error:
        without.latency_ms(nano, nano.largest)
    assert needed.key in str(error.value)


def test_a_negative_prediction_is_refused(table: LatencyTable, nano: SearchSpace) -> None:
    sunk = replace(table, calibration=replace(table.calibration, offset_ms=-50.0))
    with pytest.raises(UserError, match="smallest network"):
        sunk.check(nano)


def _first_row(data: Any) -> dict[str, Any]:
    row: dict[str, Any] = next(iter(data["rows"].values()))
    return row


def _first_graph(data: Any) -> dict[str, Any]:
    graph: dict[str, Any] = next(iter(data["graphs"].values()))
    return graph


def _network(data: Any) -> dict[str, Any]:
    network: dict[str, Any] = data["calibration"]["networks"][0]
    return network


def _put(where: Callable[[Any], Any], key: Any, value: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        where(data)[key] = value

    return change


DAMAGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "other schema": (_put(lambda d: d, "schema", SCHEMA + 1), f"has schema {SCHEMA + 1}, this version reads {SCHEMA};"),
    "no schema": (lambda d: d.pop("schema"), "is no latency table;"),
    "negative": (_put(_first_row, "min_ms", -0.1), r"rows.stem\(.*\): min_ms is -0.1;"),
    "NaN": (_put(_first_row, "min_ms", float("nan")), r"min_ms is nan, not a valid float"),
    "infinite": (_put(_first_row, "median_ms", float("inf")), r"median_ms is inf, not a valid float"),
    "hours": (_put(_first_row, "median_ms", 4e6), r"rows.stem\(.*\): median_ms is 4000000.0;"),
    "by hand": (
        _put(_first_row, "min_ms", 500.0),
        r"table: min_ms of stem\(.*\) is 500.0 though its graphs give 0",
    ),
    "median by hand": (_put(_first_row, "median_ms", 0.0), r"table: median_ms of stem\(.*\) is 0.0 though its graphs"),
    "silent zero": (
        _put(_first_row, "min_ms", 0.0),
        r"min_ms of stem\(.*\) is 0.0 though .*; clamped lacks stem",
    ),
    "text": (_put(_first_row, "min_ms", "0.1"), r"min_ms is '0.1',"),
    "boolean": (_put(_first_row, "min_ms", True), r"min_ms is True,"),
    "missing field": (lambda d: _first_row(d).pop("min_ms"), r"rows.stem\(.*\) has no min_ms"),
    "extra field": (_put(_first_row, "mean_ms", 1.0), r"rows.stem\(.*\) has an unknown mean_ms"),
    "rows as a list": (_put(lambda d: d, "rows", []), r"table.rows is \[\], not a valid dict"),
    "scale zero": (_put(lambda d: d["calibration"], "scale", 0.0), r"calibration: it is 0.0"),
    "no anchor": (_put(lambda d: d["provenance"], "anchor_ms", 0.0), r"provenance: anchor_ms is 0.0;"),
    "no network": (_put(lambda d: d["calibration"], "networks", []), r"calibration: it has no networks"),
    "no samples": (_put(_first_graph, "samples_ms", []), r"samples_ms is empty"),
    "instant sample": (_put(_first_graph, "samples_ms", [0.1, 0.0]), r"samples_ms is 0.0;"),
    "no share": (_put(lambda d: d["provenance"], "unclean_share", 7.0), r"provenance: unclean_share is 7.0;"),
    "no settings": (_put(lambda d: d["provenance"]["settings"], "samples", -4), r"settings: samples is -4;"),
    "no threads": (_put(lambda d: d["provenance"]["runtime"], "threads", -3), r"runtime: threads is -3;"),
    "network without samples": (_put(_network, "samples_ms", []), r"networks.0: samples_ms is empty"),
    "network's sample": (_put(_network, "samples_ms", [-1.0, 2.0]), r"networks.0: samples_ms is -1.0;"),
    "network's median": (_put(_network, "median_ms", -4.0), r"networks.0: median_ms is -4.0;"),
    "network's sum": (_put(_network, "sum_ms", 0.0), r"networks.0: sum_ms is 0.0;"),
    "network's prediction": (_put(_network, "predicted_ms", -0.1), r"networks.0: predicted_ms is -0.1;"),
    "unknown graph": (_put(_first_row, "terms", {"mine": 1.0}), r"stem\(.*\) is made of mine, which is no graph"),
    "scale absurd": (_put(lambda d: d["calibration"], "scale", 1e9), r"calibration: it is 1000000000.0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_impossible_file_is_refused_in_one_line(damage: str, table_file: Path, tmp_path: Path) -> None:
    change, message = DAMAGE[damage]
    data = json.loads(table_file.read_text())
    change(data)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message) as error:
        LatencyTable.load(bad)
    assert str(bad) in str(error.value)
    assert "latency_lut.build" in str(error.value)
    assert "\n" not in str(error.value)


def test_all_rows_that_do_not_follow_from_their_graphs_are_listed(table: LatencyTable) -> None:
    first, second = list(table.rows)[:2]
    rows = {key: replace(table.rows[key], min_ms=500.0, median_ms=400.0) for key in (first, second)}
    with pytest.raises(ValueError, match="though its graphs give") as error:
        replace(table, rows={**table.rows, **rows})
    for key in (first, second):
        assert f"min_ms of {key} is 500.0 though" in str(error.value)
        assert f"median_ms of {key} is 400.0 though" in str(error.value)
    assert str(error.value).count("though") == 4


def test_calibration_networks_of_another_space_are_refused(table: LatencyTable, nano: SearchSpace) -> None:
    networks = (*table.calibration.networks[:2], replace(table.calibration.networks[2], arch={"depth": 3}))
    strange = replace(table, calibration=replace(table.calibration, networks=networks))
    with pytest.raises(UserError, match=r"the table's calibration\.networks\.2: arch .*; build a new one"):
        strange.check(nano)


def test_everything_that_is_wrong_is_listed(table_file: Path, tmp_path: Path) -> None:
    data = json.loads(table_file.read_text())
    negative, nan, lost = list(data["rows"])[:3]
    data["rows"][negative]["min_ms"] = -1.0
    data["rows"][nan]["median_ms"] = float("nan")
    del data["rows"][lost]["terms"]
    del data["provenance"]["date"]
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(UserError) as error:
        LatencyTable.load(tmp_path / "bad.json")
    assert f"rows.{negative}: min_ms is -1.0" in str(error.value)
    assert f"rows.{nan}.median_ms is nan" in str(error.value)
    assert f"rows.{lost} has no terms" in str(error.value)
    assert "provenance has no date" in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "3", '"x"', "{}"])
def test_no_table_at_all(content: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match=r"not JSON|no latency table"):
        LatencyTable.load(tmp_path / "bad.json")


def test_a_number_too_large_to_be_finite_is_refused(table_file: Path, tmp_path: Path) -> None:
    text = table_file.read_text()
    (tmp_path / "bad.json").write_text(re.sub(r'"anchor_ms": [\d.]+', '"anchor_ms": 1e999', text))
    with pytest.raises(UserError, match=r"anchor_ms is inf, not a valid float"):
        LatencyTable.load(tmp_path / "bad.json")


def test_a_truncated_or_missing_file_is_refused(table_file: Path, tmp_path: Path) -> None:
    text = table_file.read_text()
    (tmp_path / "short.json").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match="not JSON"):
        LatencyTable.load(tmp_path / "short.json")
    with pytest.raises(UserError, match="cannot read"):
        LatencyTable.load(tmp_path / "none.json")


def test_the_newest_table_that_fits_is_found(table: LatencyTable, nano: SearchSpace, tmp_path: Path) -> None:
    assert newest_table(tmp_path, nano) is None
    assert newest_table(tmp_path / "nowhere", nano) is None
    for seconds, (name, item) in enumerate(
        {"old": table, "new": table, "other": replace(table, image_size=64)}.items(), start=1000
    ):
        item.save(tmp_path / f"{name}.json")
        os.utime(tmp_path / f"{name}.json", (seconds, seconds))
    (tmp_path / "new.validation.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    assert newest_table(tmp_path, nano) == tmp_path / "new.json"
