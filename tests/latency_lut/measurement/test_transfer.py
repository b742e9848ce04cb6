"""A table for another device by the times of whole networks: timed here, or elsewhere and brought back."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import search_spaces
from latency_lut import diff, export, measure, predict, show, transfer, validate
from latency_lut.backends.protocol import Run
from latency_lut.measurement.transfer import TransferConfig, transfer_table
from latency_lut.tables.plan import held_out_archs
from latency_lut.tables.table import LatencyTable
from search_spaces import SearchSpace, UserError
from tests.latency_lut.conftest import make_tiny
from tests.latency_lut.fake import OVERHEAD_NS, FakeMachine, cost_ns

MEASURED = "nano.json"
OUT = "there.json"
FLAGS = ("--table", MEASURED, "--samples", "3")


def cost_there_ns(key: str) -> int:
    """Attention is slow on the other device, the rest a little faster."""
    return int(cost_ns(key) * (2.5 if key.startswith("attention") else 0.8))


class Other(FakeMachine):
    """Another device, OpenVINO's place. Breaks off after `lifetime` calls in all."""

    lifetime = 10**9

    def __init__(self, threads: int = 1, precision: str = "float32", compute_unit: str = "cpu") -> None:
        super().__init__(threads=threads, precision=precision, name="openvino")

    def run_of(self, keys: Sequence[str]) -> Run:
        keys = tuple(keys)

        def run(repeats: int) -> None:
            if len(self.calls) >= self.lifetime:
                raise UserError("the device has gone; what was measured is kept")
            self.calls.append(keys)
            self._now_ns += repeats * (OVERHEAD_NS + sum(map(cost_there_ns, keys)))

        return run


@pytest.fixture
def workplace(table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a table of this machine lies, and the other device can be reached."""
    monkeypatch.setattr("latency_lut.backends.openvino.OpenVinoBackend", Other)
    monkeypatch.chdir(tmp_path)
    shutil.copy(table_file, MEASURED)
    return tmp_path


@pytest.fixture(scope="module")
def made(table_file: Path, tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    """The table for the other device."""
    out = tmp_path_factory.mktemp("transferred") / OUT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latency_lut.backends.openvino.OpenVinoBackend", Other)
        found = transfer_table(TransferConfig(backend="openvino", table=str(table_file), samples=3, out=str(out)))
    assert LatencyTable.load(out) == found.table
    return found.table


def test_the_table_is_of_the_other_device(made: LatencyTable, table: LatencyTable, nano: SearchSpace) -> None:
    archs = held_out_archs(nano, made, 30, seed=3)
    times_ms = [(OVERHEAD_NS + sum(cost_there_ns(b.key) for b in nano.lower(arch))) / 1e6 for arch in archs]
    errors = [abs(made.latency_ms(nano, arch) / ms - 1) for arch, ms in zip(archs, times_ms, strict=True)]
    before = [abs(table.latency_ms(nano, arch) / ms - 1) for arch, ms in zip(archs, times_ms, strict=True)]
    assert sum(errors) / 30 < 0.02 < 0.1 < sum(before) / 30
    assert made.provenance.runtime.runtime == "fake runtime" and made.provenance.backend == "openvino"
    assert len(made.calibration.networks) == 20 and made.graphs.keys() == table.graphs.keys()
    assert not any(graph.devices for graph in made.graphs.values()), "what ran where is not known there"


def test_it_says_what_it_is_everywhere(
    made: LatencyTable, table: LatencyTable, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = made.provenance.transferred
    assert origin and (origin.num_networks, origin.runtime) == (20, table.provenance.runtime)
    assert 0 < origin.mape < 0.02 and origin.within_10_percent == 1
    said = f"transferred from {table.provenance.runtime} by 20 networks, held-out error {origin.mape:.1%}"
    assert made.warnings == (said,) and table.warnings == ()
    made.save(workplace / OUT)
    for main, flags in (show.main, [OUT]), (predict.main, ["--table", OUT]), (diff.main, [MEASURED, OUT]):
        main(flags)
        assert said in capsys.readouterr().out, flags


def test_the_command_prints_the_held_out_error(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transfer.main([*FLAGS, "--backend", "openvino", "--measure", "12"])
    out = "runs/tables/efficientformerv2-nano-32px-10c-openvino-float32-1t-transferred.json"
    text = capsys.readouterr().out
    assert "each of 12 networks by the others" in text and "MACs, line" in text
    assert text.endswith(f"{out}\nnext: python -m latency_lut.validate --table {out}\n")
    assert LatencyTable.load(Path(out)).provenance.command.startswith(
        "python -m latency_lut.transfer --backend openvino"
    )
    validate.main(["--table", out, "--num-archs", "5"])
    assert "transferred from fake runtime 1" in capsys.readouterr().out


def test_networks_are_timed_elsewhere(workplace: Path, made: LatencyTable, capsys: pytest.CaptureFixture[str]) -> None:
    export.main(["--transfer", MEASURED, "--backend", "openvino"])
    assert capsys.readouterr().out.endswith("on the device's machine: python -m latency_lut.measure blocks\n")
    measure.main(["blocks", "--samples", "3"])
    result = "result-transfer-openvino-float32-1t-fake-device.json"
    assert f"python -m latency_lut.transfer --table {MEASURED}" not in capsys.readouterr().out, "it knows no names"
    transfer.main(["--table", MEASURED, "--from", f"blocks/{result}", "--out", OUT])
    step = f"next: python -m latency_lut.export --validate {OUT} --out held-out\n"
    assert capsys.readouterr().out.endswith(step), "on the device, not on this machine"
    there = LatencyTable.load(Path(OUT))
    assert replace(there, provenance=made.provenance) == made

    with pytest.raises(UserError, match="--from brings what was measured; leave --measure out"):
        transfer.main(["--table", MEASURED, "--from", f"blocks/{result}", "--measure", "10"])
    with pytest.raises(UserError, match=r"is a transfer's; give it to python -m latency_lut\.transfer --from"):
        validate.main(["--table", MEASURED, "--from", f"blocks/{result}"])
    table = LatencyTable.load(Path(MEASURED))
    replace(table, provenance=replace(table.provenance, date="later")).save(Path("newer.json"))
    with pytest.raises(UserError, match=r"exported for another table than newer\.json.*latency_lut\.export --transfer"):
        transfer.main(["--table", "newer.json", "--from", f"blocks/{result}"])


def test_a_device_that_vanishes_costs_nothing(
    workplace: Path, made: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*FLAGS, "--backend", "openvino", "--out", OUT]
    monkeypatch.setattr(Other, "lifetime", 150)
    with pytest.raises(UserError, match="device has gone"):
        transfer.main(flags)
    partial = Path(f"{OUT}.partial")
    visits = len(partial.read_text().splitlines()) - 1
    assert visits > 10 and not Path(OUT).exists()
    machine = Other()
    monkeypatch.setattr(Other, "lifetime", 10**9)
    monkeypatch.setattr("latency_lut.backends.openvino.OpenVinoBackend", lambda **_: machine)
    transfer.main(flags)
    assert len(machine.calls) == 4 * 21 + 2 * (3 * 21 - visits), "only what was left"
    assert replace(LatencyTable.load(Path(OUT)), provenance=made.provenance) == made
    assert not partial.exists()


def test_what_gives_no_table_is_refused(
    workplace: Path, made: LatencyTable, tiny: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.save(workplace / OUT)
    with pytest.raises(
        UserError, match=r"there\.json was transferred from .*; give a table whose blocks were measured"
    ):
        transfer.main(["--table", OUT])
    with pytest.raises(UserError, match=r"--measure is 7.*8"):
        transfer.main([*FLAGS, "--measure", "7"])
    with pytest.raises(UserError, match="5 networks are too few to transfer a table by; it takes 8 or more"):
        export.main(["--transfer", MEASURED, "--backend", "openvino", "--num-archs", "5"])
    with pytest.raises(UserError, match="--transfer takes these from its table; leave --space out"):
        export.main(["--transfer", MEASURED, "--space", "tiny"])
    table = LatencyTable.load(Path(MEASURED))
    runtime = replace(table.provenance.runtime, precision="int8")
    replace(table, provenance=replace(table.provenance, runtime=runtime)).save(Path("int8.json"))
    with pytest.raises(
        UserError, match=r"is of int8, which openvino does not have; --precision float32 or bfloat16 or"
    ):
        transfer.main(["--table", "int8.json", "--backend", "openvino"])
    monkeypatch.setitem(search_spaces.SPACES, "tiny", make_tiny)
    Path("runs/r").mkdir(parents=True)
    Path("runs/r/run.json").write_text('{"space": "tiny", "image_size": 32, "num_classes": 2}')
    with pytest.raises(
        UserError, match=r"nano\.json is not for r: the table's space is efficientformerv2-nano, not tiny"
    ):
        transfer.main([*FLAGS, "--run", "r"])
