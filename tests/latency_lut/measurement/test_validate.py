from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from latency_lut.backends.protocol import Settings
from latency_lut.measurement.validate import Accuracy, ValidateConfig, report, validate, validate_table
from latency_lut.tables.plan import calibration_archs, held_out_archs, random_archs, validation_jobs
from latency_lut.tables.table import CalibrationNetwork, LatencyTable
from latency_lut.validate import main
from search_spaces import Arch, SearchSpace, UserError
from tests.latency_lut.fake import FakeMachine, Killed, MortalMachine
from tests.toy_family import ToySpace


def test_accuracy_of_known_errors() -> None:
    accuracy = Accuracy.of([1.04, 1.92, 3.27, 4.0], [1.0, 2.0, 3.0, 5.0])
    assert accuracy.mape == pytest.approx((0.04 + 0.04 + 0.09 + 0.2) / 4)
    assert accuracy.bias == pytest.approx((0.04 - 0.04 + 0.09 - 0.2) / 4)
    assert (accuracy.within_5_percent, accuracy.within_10_percent) == (0.5, 0.75)
    assert accuracy.spearman == pytest.approx(1)
    assert accuracy.kendall == pytest.approx(1)


def test_ranks() -> None:
    assert Accuracy.of([3, 2, 1], [1, 2, 3]).spearman == pytest.approx(-1)
    swapped = Accuracy.of([1, 2, 4, 3], [1, 2, 3, 4])
    assert swapped.spearman == pytest.approx(0.8)
    assert swapped.kendall == pytest.approx(2 / 3)
    assert Accuracy.of([1.0, 1.0], [1.0, 2.0]).spearman is None


def test_held_out_networks_are_none_of_the_calibration(nano: SearchSpace, table: LatencyTable) -> None:
    archs = held_out_archs(nano, table, 50, seed=1)
    assert len(set(archs)) == 50
    assert not set(archs) & set(calibration_archs(nano))
    assert archs == held_out_archs(nano, table, 50, seed=1) != held_out_archs(nano, table, 50, seed=2)


def test_a_small_space_gives_what_it_has(table: LatencyTable) -> None:
    space = ToySpace()
    networks = tuple(replace(table.calibration.networks[0], arch=space.to_json(a)) for a in calibration_archs(space))
    calibrated = replace(table, calibration=replace(table.calibration, networks=networks))
    assert len(held_out_archs(space, calibrated, 2000, seed=0)) == space.size() - len(networks)


def test_where_no_network_is_held_out_that_is_said(table: LatencyTable) -> None:
    class Few(ToySpace):
        def sample(self, rng: random.Random) -> Arch:
            return rng.choice((self.smallest, self.largest))

    space = Few()
    networks = tuple(replace(table.calibration.networks[0], arch=space.to_json(a)) for a in calibration_archs(space))
    assert len(networks) == 2
    calibrated = replace(table, calibration=replace(table.calibration, networks=networks))
    with pytest.raises(
        UserError, match=rf"^all networks of {space.name} .* none is left to validate it on; give a tabl"
    ):
        held_out_archs(space, calibrated, 20, seed=0)
    assert set(random_archs(space, 20, seed=0)) == {space.smallest, space.largest}, "what tables are compared on"


def test_a_table_of_an_additive_machine_is_right(nano: SearchSpace, table: LatencyTable) -> None:
    machine = FakeMachine()
    archs = held_out_archs(nano, table, 20, seed=1)
    result = validate(table, nano, machine, archs, Settings(3, 0.001))
    assert result["table"]["mape"] < 1e-4
    assert result["table"]["spearman"] == pytest.approx(1)
    assert result["repeat_floor"]["mape"] == pytest.approx(0, abs=1e-9)
    assert result["macs"]["mape"] > 0.02, "costs of the fake blocks have nothing to do with MACs"
    assert result["slowdown"] == pytest.approx(0, abs=1e-6)
    assert "WARNING" not in report(result)


def test_a_slower_machine_shows_as_bias_and_at_the_calibration_networks(nano: SearchSpace, table: LatencyTable) -> None:
    class Slower(FakeMachine):
        def now_ns(self) -> int:
            return self._now_ns * 6 // 5

    machine = Slower()
    archs = held_out_archs(nano, table, 5, seed=1)
    result = validate(table, nano, machine, archs, Settings(3, 1.0))
    assert result["table"]["bias"] == pytest.approx(1 / 1.2 - 1, rel=1e-3)
    assert result["slowdown"] == pytest.approx(0.2, rel=1e-3)
    assert result["at_this_speed"]["mape"] == pytest.approx(0, abs=1e-3)
    assert "the calibration networks take +20.0% longer than when the table was built" in report(result)


def test_fewer_samples_are_no_slower_machine(nano: SearchSpace, table: LatencyTable) -> None:
    def lucky_once(network: CalibrationNetwork) -> CalibrationNetwork:
        return replace(network, samples_ms=(*network.samples_ms, 0.5 * network.min_ms), min_ms=0.5 * network.min_ms)

    networks = tuple(map(lucky_once, table.calibration.networks))
    lucky = replace(table, calibration=replace(table.calibration, networks=networks))
    count = len(table.calibration.networks[0].samples_ms)
    archs = held_out_archs(nano, lucky, 3, seed=1)
    assert validate(lucky, nano, FakeMachine(), archs, Settings(count, 0.001))["slowdown"] == pytest.approx(0, abs=1e-6)


def test_another_device_or_a_busy_one_is_warned_of(nano: SearchSpace, table: LatencyTable) -> None:
    machine = FakeMachine(threads=2, wait_ns_at=lambda _: 10**7)
    archs = held_out_archs(nano, table, 5, seed=1)
    text = report(validate(table, nano, machine, archs, Settings(3, 0.001)))
    assert "WARNING: the table is of another device or runtime: threads 1 (here 2)" in text
    assert "WARNING: the machine was busy" in text


def test_without_any_table_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"latency_lut\.build"):
        main([])
    with pytest.raises(UserError, match="cannot read"):
        main(["--table", "none.json"])


@pytest.fixture
def killed(table_file: Path, nano: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table whose validation has died after two rounds and a half of samples."""
    path = tmp_path / "t.json"
    shutil.copy(table_file, path)
    table, machine = LatencyTable.load(path), MortalMachine()
    jobs = validation_jobs(nano, table, held_out_archs(nano, table, 4, seed=1))
    machine.lifetime = int(len(jobs) * (4 + 2 * 2.5))  # repeats are found in 4 calls, a sample takes 2
    monkeypatch.setattr("latency_lut.measurement.validate.backend_of", lambda *_: machine)
    with pytest.raises(Killed):
        validate_table(ValidateConfig(str(path), num_archs=4, samples=5))
    monkeypatch.setattr("latency_lut.measurement.validate.backend_of", lambda *_: FakeMachine())
    return path


def test_a_killed_validation_goes_on(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, out = FakeMachine(), killed.with_suffix(".validation.json")
    partial = out.with_name("t.validation.json.partial")
    monkeypatch.setattr("latency_lut.measurement.validate.backend_of", lambda *_: machine)
    assert not out.exists()
    taken = len(partial.read_text().splitlines()) - 1
    main(["--table", str(killed), "--num-archs", "4", "--samples", "5"])
    jobs = 1 + len(LatencyTable.load(killed).calibration.networks) + 2 * 4
    assert 2 * jobs < taken < 3 * jobs
    assert len(machine.calls) == 4 * jobs + 2 * (5 * jobs - taken), "only what was left"
    assert not partial.exists()

    resumed = json.loads(out.read_text())
    assert resumed == json.loads(json.dumps(validate_table(ValidateConfig(str(killed), 4, 5))[1])), "as if never killed"


def test_an_unfinished_validation_of_something_else_is_refused(killed: Path) -> None:
    partial = killed.with_name("t.validation.json.partial")
    before = partial.read_bytes()
    for other, what in (
        (ValidateConfig(str(killed), 5, 5), r"num_archs 4 \(now 5\)"),
        (ValidateConfig(str(killed), 4, 5, seed=2), r"seed 1 \(now 2\)"),
        (ValidateConfig(str(killed), 4, 6), r"samples 5 \(now 6\)"),
    ):
        with pytest.raises(UserError, match=f"was begun with .*{what}.*--no-resume"):
            validate_table(other)
    rebuilt = LatencyTable.load(killed)
    replace(rebuilt, provenance=replace(rebuilt.provenance, date="later")).save(killed)
    with pytest.raises(UserError, match="was begun with table "):
        validate_table(ValidateConfig(str(killed), 4, 5))
    assert partial.read_bytes() == before, "nothing is lost"
    validate_table(ValidateConfig(str(killed), 4, 5, resume=False))
    assert not partial.exists()


def test_a_validation_on_the_tables_own_device_is_not_overwritten_by_one_elsewhere(
    table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.json"
    shutil.copy(table_file, path)
    own, other = FakeMachine(), FakeMachine(threads=2)
    for machine in (other, own, own):  # its own replaces any
        monkeypatch.setattr("latency_lut.measurement.validate.backend_of", lambda *_, m=machine: m)
        out, _ = validate_table(ValidateConfig(str(path), num_archs=3, samples=2))
    before = out.read_bytes()
    monkeypatch.setattr("latency_lut.measurement.validate.backend_of", lambda *_: other)
    with pytest.raises(UserError, match=r"t\.json is validated on its own device .*1 thread.*, this is .*2 threads"):
        validate_table(ValidateConfig(str(path), num_archs=3, samples=2))
    assert out.read_bytes() == before
