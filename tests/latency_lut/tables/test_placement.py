from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from latency_lut.backends.base import Session
from latency_lut.backends.protocol import Settings
from latency_lut.measurement.build import build
from latency_lut.measurement.validate import report, validate
from latency_lut.tables.placement import mean_shares, misplaced, of_row, shares_text
from latency_lut.tables.plan import held_out_archs
from latency_lut.tables.show import as_json
from latency_lut.tables.table import LatencyTable
from latency_lut.tables.text import summary
from search_spaces import SearchSpace
from tests.latency_lut.fake import FakeMachine

SETTINGS = Settings(samples=2, min_sample_ms=0.001)


class Phone(FakeMachine):
    """Graphs of fewer blocks than any network land on "cpu", whole networks on "ne"."""

    def load(self, path: Path) -> Session:
        keys: Sequence[str] = json.loads(path.read_text())
        whole = len(set(keys)) > 4
        return replace(super().load(path), devices={"ne": 1.0} if whole else {"cpu": 1.0})


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, tiny: SearchSpace) -> LatencyTable:
    """A table of a phone that runs networks elsewhere than their blocks."""
    out = tmp_path_factory.mktemp("tables") / "t.json"
    table = build(tiny, Phone(), SETTINGS, out)
    assert LatencyTable.load(out) == table
    return table


def placed(table: LatencyTable, unit: str) -> LatencyTable:
    """The table with networks and blocks on one unit."""
    shares = {unit: 1.0}
    networks = tuple(replace(n, devices=shares, expected_devices=shares) for n in table.calibration.networks)
    return replace(table, calibration=replace(table.calibration, networks=networks))


def test_networks_that_run_elsewhere_than_their_blocks_are_told_in_the_table(elsewhere: LatencyTable) -> None:
    (warning,) = elsewhere.warnings
    assert warning.startswith(
        "WARNING: 10 of 10 whole networks run elsewhere than their blocks (one: ne, its blocks: cpu)"
    )
    assert warning in summary(elsewhere) and "operators of the networks: ne; of their blocks: cpu" in summary(elsewhere)
    assert {(*n.devices, *n.expected_devices) for n in elsewhere.calibration.networks} == {("ne", "cpu")}
    assert as_json(Path("t.json"), elsewhere, [], Path("t.html"))["warnings"] == (warning,)


def test_a_validation_tells_it_of_networks_that_the_table_has_not_seen(
    tiny: SearchSpace, elsewhere: LatencyTable
) -> None:
    archs = held_out_archs(tiny, elsewhere, 3, seed=1)
    result = validate(elsewhere, tiny, Phone(), archs, SETTINGS)
    assert [(n["devices"], n["expected_devices"]) for n in result["networks"]] == [({"ne": 1.0}, {"cpu": 1.0})] * 3
    (warning,) = result["placement_warnings"]
    assert "3 of 3 whole networks" in warning and warning in report(result)


def test_where_they_run_alike_nothing_is_told(elsewhere: LatencyTable) -> None:
    alike = placed(elsewhere, "ne")
    assert not alike.warnings
    assert "operators of the networks: ne; of their blocks: ne" in summary(alike)
    assert "operators" not in summary(placed(elsewhere, "cpu")), "a CPU alone is not worth a line"


def test_shares_that_are_not_known_do_not_count() -> None:
    assert mean_shares([({"ne": 1.0}, 3.0), ({}, 5.0), ({"cpu": 1.0}, 1.0)]) == {"ne": 0.75, "cpu": 0.25}
    assert mean_shares([({}, 1.0)]) == {}
    assert of_row({"long": 1 / 6, "short": -1 / 6}, {"long": {"ne": 1.0}, "short": {"cpu": 1.0}}) == {"ne": 1.0}
    assert not misplaced([({}, {"ne": 1.0}), ({"cpu": 1.0}, {})])


@pytest.mark.parametrize(("share", "told"), [(0.75, True), (0.85, False)])
def test_what_counting_and_timing_differ_by_is_no_other_placement(share: float, told: bool) -> None:
    assert bool(misplaced([({"xnnpack": share, "portable": 1 - share}, {"xnnpack": 1.0})])) == told


def test_shares_as_text() -> None:
    assert shares_text({"cpu": 0.999, "gpu": 0.001}) == "cpu"
    assert shares_text({"ne": 0.83, "cpu": 0.17}) == "ne 83%, cpu 17%"
    assert shares_text({}) == "-"
