from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latency_lut.backends.base import FileBackend, Job
from latency_lut.backends.protocol import Run, Settings, Timing, measure
from latency_lut.measurement.build import BuildConfig, build, build_table, make_table
from latency_lut.tables.plan import make_plan, table_jobs
from latency_lut.tables.table import LatencyTable
from latency_lut.tables.text import summary
from search_spaces import SearchSpace, UserError
from tests.contracts.backend import FileBackendContract
from tests.killing import assert_kills_change_nothing
from tests.latency_lut.fake import FakeMachine, Killed, MortalMachine, cost_ns

SETTINGS = Settings(samples=5, min_sample_ms=0.001)


class TestFakeMachine(FileBackendContract):
    @classmethod
    def make_backend(cls) -> FileBackend:
        return FakeMachine()


def kill_build(space: SearchSpace, out: Path, rounds: float, **fields: Any) -> None:
    machine = MortalMachine(**fields)
    jobs = len(table_jobs(space, make_plan(space)))
    machine.lifetime = int(jobs * (4 + 2 * rounds))  # repeats are found in 4 calls, a sample takes 2
    with pytest.raises(Killed):
        build(space, machine, SETTINGS, out)
    assert not out.exists()


def rebuild(space: SearchSpace, out: Path, **options: Any) -> LatencyTable:
    machine = FakeMachine()
    return build(space, machine, SETTINGS, out, **options)


def test_a_killed_build_goes_on(tiny: SearchSpace, tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    kill_build(tiny, out, rounds=3.5)
    partial = out.with_name("t.json.partial")
    visits = len(partial.read_text().splitlines()) - 1
    with partial.open("a") as file:
        file.write('{"anchor": [[0.1, ')  # killed while it wrote

    machine = FakeMachine()
    table = build(tiny, machine, SETTINGS, out)
    jobs = len(table.graphs) + 1 + len(table.calibration.networks)
    assert 3 * jobs < visits < 4 * jobs
    assert len(machine.calls) == 4 * jobs + 2 * (5 * jobs - visits), "only what was left"
    assert not partial.exists()
    assert LatencyTable.load(out) == table

    uninterrupted = rebuild(tiny, tmp_path / "whole.json")
    assert replace(table, provenance=uninterrupted.provenance) == uninterrupted


def test_a_build_that_was_stopped_for_an_hour_and_then_killed_goes_on(tiny: SearchSpace, tmp_path: Path) -> None:
    second_round = 6 * len(table_jobs(tiny, make_plan(tiny)))
    hour = {second_round + 1: 3600 * 10**9}  # in a run that counts
    kill_build(tiny, tmp_path / "t.json", rounds=3.5, wait_ns_at=lambda call: hour.get(call, 0), tells_waits=False)
    with (partial := tmp_path / "t.json.partial").open("a") as file:
        file.write('{"anchor": [[0.1, 3.5, 0.1]]}\n')  # all of several threads waited
    assert "[3600" in partial.read_text()
    table = rebuild(tiny, tmp_path / "t.json")
    assert table.graphs == rebuild(tiny, tmp_path / "whole.json").graphs


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_ends_with_the_same_table(seed: int, tiny: SearchSpace, tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()

    def work() -> None:
        rebuild(tiny, Path("runs/t.json"))

    assert_kills_change_nothing(tmp_path / "start", tmp_path, work, work, seed)


def test_samples_that_give_no_table_are_answered_in_one_line(tiny: SearchSpace, tmp_path: Path) -> None:
    class Idle(FakeMachine):
        """Takes as long for eight blocks as for two."""

        def run_of(self, keys: Sequence[str]) -> Run:
            return super().run_of(())

    with pytest.raises(UserError, match=r"no table: sum_ms is 0.*--no-resume"):
        build(tiny, Idle(), SETTINGS, tmp_path / "t.json")


def test_a_block_that_the_runtime_cannot_run_is_named_in_one_line(tiny: SearchSpace, tmp_path: Path) -> None:
    class Poor(FakeMachine):
        def export(self, job: Job, path: Path) -> None:
            if len(job.blocks) > 2:
                raise NotImplementedError("no operator unfold. Please ask for it\nCaused by …")
            super().export(job, path)

    with pytest.raises(
        UserError, match=r"^fake cannot run \S.*: NotImplementedError: no operator unfold; give another"
    ):
        build(tiny, Poor(), SETTINGS, tmp_path / "t.json")


def test_no_resume_starts_over(tiny: SearchSpace, tmp_path: Path) -> None:
    kill_build(tiny, tmp_path / "t.json", rounds=2.5, wait_ns_at=lambda _: 10**6)
    table = rebuild(tiny, tmp_path / "t.json", resume=False)
    assert table.provenance.unclean_share == 0


def test_a_partial_file_of_other_settings_is_refused(tiny: SearchSpace, tmp_path: Path) -> None:
    kill_build(tiny, tmp_path / "t.json", rounds=2.5, threads=4)
    before = (tmp_path / "t.json.partial").read_bytes()
    with pytest.raises(UserError, match=r"was begun with threads 4 \(now 1\).*--no-resume"):
        rebuild(tiny, tmp_path / "t.json")
    assert (tmp_path / "t.json.partial").read_bytes() == before, "nothing is lost"


def test_a_partial_file_without_samples_hinders_nobody(tiny: SearchSpace, tmp_path: Path) -> None:
    kill_build(tiny, tmp_path / "t.json", rounds=-1.98, threads=4)
    assert len((tmp_path / "t.json.partial").read_text().splitlines()) == 1
    assert rebuild(tiny, tmp_path / "t.json").provenance.runtime.threads == 1


@pytest.mark.parametrize("line", ["[]", "{", '{"anchor": 3}', '{"anchor": [["x", 0, 0]]}', '{"anchor": [[0, 0, 1]]}'])
def test_a_damaged_partial_file_is_refused(line: str, tiny: SearchSpace, tmp_path: Path) -> None:
    kill_build(tiny, tmp_path / "t.json", rounds=1.5)
    with (tmp_path / "t.json.partial").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=r"damaged \(.*\); delete it to start over|line .*, is not JSON"):
        rebuild(tiny, tmp_path / "t.json")


def test_the_table_names_its_origin(table: LatencyTable) -> None:
    source, machine = table.provenance, FakeMachine()
    assert (source.backend, source.runtime) == ("fake", machine.describe())
    assert (source.settings, source.batch) == (Settings(samples=3, min_sample_ms=0.001), 1)
    assert source.anchor_drift == 0
    assert not source.busy
    assert not table.clamped


def test_the_table_has_the_time_for_tuning(tiny: SearchSpace, tmp_path: Path) -> None:
    machine = FakeMachine()
    machine.tuning_s = 30
    build(tiny, machine, SETTINGS, out := tmp_path / "t.json")
    assert LatencyTable.load(out).provenance.tuning_s == 30
    data = json.loads(out.read_text())
    del data["provenance"]["tuning_s"]
    out.write_text(json.dumps(data))
    assert LatencyTable.load(out).provenance.tuning_s is None, "of an older version"


def test_the_table_is_small(table_file: Path) -> None:
    assert table_file.stat().st_size < 200_000
    json.loads(table_file.read_text())


def test_calibration_finds_the_overhead_of_a_run(tiny: SearchSpace, tmp_path: Path) -> None:
    machine = FakeMachine(overhead_ns=250_000)
    table = build(tiny, machine, SETTINGS, tmp_path / "t.json")
    assert table.calibration.scale == pytest.approx(1, rel=1e-4)
    assert table.calibration.offset_ms == pytest.approx(0.25, rel=1e-3)
    assert all(n.predicted_ms == pytest.approx(n.min_ms) for n in table.calibration.networks)


def test_a_busy_machine_is_said(tiny: SearchSpace, tmp_path: Path) -> None:
    machine = FakeMachine(wait_ns_at=lambda call: 10**6 if call % 2 else 0)
    table = build(tiny, machine, SETTINGS, tmp_path / "t.json")
    assert table.provenance.busy
    assert "WARNING: the machine was busy" in summary(table)


def test_drift_is_recorded_in_order_of_time(tiny: SearchSpace, tmp_path: Path) -> None:
    class Slowing(FakeMachine):
        def run_of(self, keys: Sequence[str]) -> Run:
            run = super().run_of(keys)

            def slower(repeats: int) -> None:
                run(repeats)
                self._now_ns += len(self.calls) * repeats

            return slower

    machine = Slowing(wait_ns_at=lambda call: call % 3)  # no sample waits as long as another
    table = build(tiny, machine, SETTINGS, tmp_path / "t.json")
    assert table.provenance.anchor_drift > 0


def test_a_block_that_costs_less_than_the_noise_is_clamped_and_said(tiny: SearchSpace, table: LatencyTable) -> None:
    plan, machine = make_plan(tiny), FakeMachine()
    runs = {name: machine.prepare(job).run for name, job in table_jobs(tiny, plan).items()}
    measured = measure(runs, SETTINGS, machine)
    key = next(key for key, block in tiny.all_blocks().items() if block.kind == "head")
    with_head, chain = plan.terms[key]
    measured.timings[with_head] = Timing(tuple(ms - 1e-4 for ms in measured.timings[chain].samples_ms))

    noisy = make_table(tiny, plan, measured, {}, table.provenance)
    assert noisy.clamped == (key,)
    assert noisy.rows[key].min_ms == 0
    assert f"1 blocks cost too little to be told from 0: {key}" in summary(noisy)
    others = {k: row.min_ms for k, row in noisy.rows.items() if k != key}
    assert others == pytest.approx({k: cost_ns(k) / 1e6 for k in others}, rel=1e-4)


@pytest.mark.parametrize("out", ["table", "table.txt", "."])
def test_out_must_be_a_json_file(out: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--out is .*; give a file that ends in \.json"):
        build_table(BuildConfig(out=str(tmp_path / out)))
