"""Exported here, measured there: the folder, the result, and the table made of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import search_spaces
from latency_lut import build, export, measure, validate
from latency_lut.backends.base import Session
from latency_lut.backends.onnxruntime import OnnxRuntimeBackend
from latency_lut.backends.protocol import Run
from latency_lut.measurement.manifest import Result, checksum, read_folder, write_folder
from latency_lut.tables.anchor import anchor_job
from latency_lut.tables.table import LatencyTable
from search_spaces import SearchSpace, UserError, get_space
from tests.latency_lut.conftest import make_tiny
from tests.latency_lut.fake import FakeMachine, cost_ns
from tests.toy_family import ToySpace

RESULT = "blocks/result-table-onnxruntime-float32-1t-fake-device.json"
ROOT = Path(__file__).parents[3]


class Device(FakeMachine):
    """Breaks off after `lifetime` calls in all."""

    lifetime = 10**9

    def __init__(self, threads: int = 1, precision: str = "float32", compute_unit: str = "cpu") -> None:
        super().__init__(threads=threads, precision=precision, name="onnxruntime")

    def run_of(self, keys: Sequence[str]) -> Run:
        run = super().run_of(keys)

        def mortal(repeats: int) -> None:
            if len(self.calls) >= self.lifetime:
                raise UserError("the device has gone; what was measured is kept")
            run(repeats)

        return mortal


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tiny space can be had, and the runtime is the fake machine."""
    monkeypatch.setitem(search_spaces.SPACES, "tiny", make_tiny)
    monkeypatch.setattr("latency_lut.backends.onnxruntime.OnnxRuntimeBackend", Device)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(workplace: Path) -> Path:
    export.main(["--backend", "onnxruntime", "--space", "tiny"])
    return workplace / "blocks"


def test_a_table_from_elsewhere_is_that_of_this_machine(folder: Path, tiny: SearchSpace) -> None:
    measure.main(["blocks", "--samples", "3"])
    build.main(["--from", RESULT, "--out", "there.json"])
    build.main(["--space", "tiny", "--backend", "onnxruntime", "--samples", "3", "--out", "here.json"])
    there, here = LatencyTable.load(Path("there.json")), LatencyTable.load(Path("here.json"))
    assert there.provenance.command == f"python -m latency_lut.build --from {RESULT} --out there.json"
    assert replace(there, provenance=here.provenance) == here
    assert there.provenance.runtime == here.provenance.runtime
    assert {graph.devices["fake"] for graph in there.graphs.values()} == {1.0}
    for key, row in there.rows.items():
        assert row.min_ms == pytest.approx(cost_ns(key) / 1e6, rel=1e-4)


def test_a_table_is_validated_elsewhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure.main(["blocks", "--samples", "3"])
    build.main(["--from", RESULT, "--out", "t.json"])
    step = "next: python -m latency_lut.export --validate t.json --out held-out\n"
    assert capsys.readouterr().out.endswith(step), "on the device, not on this machine"
    with pytest.raises(UserError, match=r"--validate takes these from its table; leave --space, --num-classes out"):
        export.main(["--validate", "t.json", "--space", "tiny", "--num-classes", "3", "--out", "held-out"])
    export.main(["--validate", "t.json", "--num-archs", "5", "--out", "held-out"])
    assert capsys.readouterr().out.endswith("latency_lut.measure held-out --compute-unit cpu --threads 1\n")
    manifest = read_folder(Path("held-out"))
    assert len(manifest.jobs) == 1 + 10 + 2 * 5
    assert len({entry.file for entry in manifest.jobs.values()}) == 1 + 10 + 5, "a network is exported once"
    measure.main(["held-out", "--samples", "3"])
    capsys.readouterr()
    result = "held-out/result-validation-onnxruntime-float32-1t-fake-device.json"
    validate.main(["--table", "t.json", "--from", result, "--json"])
    compared = json.loads(capsys.readouterr().out)
    assert compared["table"]["mape"] < 1e-3
    assert compared["num_archs"] == 5
    with pytest.raises(UserError, match="--from brings what was measured; leave --num-archs out"):
        validate.main(["--table", "t.json", "--from", result, "--num-archs", "5"])
    with pytest.raises(UserError, match=r"is a measurement; python -m latency_lut\.build --from"):
        LatencyTable.load(Path(RESULT))

    with pytest.raises(UserError, match=r"1t-fake-device\.json is a validation.*latency_lut\.validate --from"):
        build.main(["--from", result])
    with pytest.raises(UserError, match=r"1t-fake-device\.json is a table's.*latency_lut\.build --from"):
        validate.main(["--table", "t.json", "--from", RESULT])
    build.main(["--from", RESULT, "--out", "other.json"])
    with pytest.raises(UserError, match=r"exported for another table than other\.json"):
        validate.main(["--table", "other.json", "--from", result])


def test_what_was_measured_before_the_device_went_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "lifetime", 300)
    with pytest.raises(UserError, match="device has gone"):
        measure.main(["blocks", "--samples", "5"])
    (partial,) = folder.glob("*.partial")
    visits = len(partial.read_text().splitlines()) - 1
    assert visits > 20

    reads: list[int] = []
    monkeypatch.setattr(Device, "lifetime", 10**9)
    monkeypatch.setattr(Device, "wait_ns", lambda self: reads.append(0))
    measure.main(["blocks", "--samples", "5"])
    result = Result.load(folder / "result-table-onnxruntime-float32-1t-fake-device.json")
    assert len(reads) == 2 * (5 * len(result.manifest.jobs) - visits), "a sample reads the clock twice"
    assert not partial.exists()


def test_two_processes_do_not_measure_into_one_file(folder: Path) -> None:
    script = (
        "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]): print(flush=True); sys.stdin.read()"
    )
    partial = Path(f"{RESULT}.partial")
    lock = partial.with_name(f".{partial.name}.lock")
    with subprocess.Popen([sys.executable, "-c", script, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        with pytest.raises(UserError, match=r"another process measures into .*\.partial; wait for it"):
            measure.main(["blocks", "--samples", "3"])
        other.communicate()
    measure.main(["blocks", "--samples", "3"])
    assert Path(RESULT).exists() and not partial.exists() and not lock.exists()


def test_a_file_that_the_runtime_cannot_load_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Device, path: Path) -> Session:
        raise RuntimeError(f"Opset 99 is unknown\nin {path}")

    monkeypatch.setattr(Device, "load", load)
    with pytest.raises(UserError, match=r"cannot load blocks/0000\.json \(anchor\): Opset 99 is unknown; install"):
        measure.main(["blocks"])


def test_an_interrupted_measurement_of_another_folder_is_not_gone_on_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "lifetime", 300)
    with pytest.raises(UserError, match="device has gone"):
        measure.main(["blocks", "--out", "r.json"])
    export.main(["--backend", "onnxruntime", "--space", "tiny", "--num-classes", "3", "--out", "more"])
    with pytest.raises(UserError, match=r"r\.json\.partial was begun with manifest .*--no-resume"):
        measure.main(["more", "--out", "r.json"])


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_missing_and_altered_files_are_all_named(folder: Path) -> None:
    first, second, third = sorted(folder.glob("0*.json"))[:3]
    first.unlink()
    second.write_text("[]")
    with pytest.raises(UserError) as error:
        measure.main(["blocks"])
    assert f"{first.name} is missing, {second.name} was altered" in str(error.value)
    assert third.name not in str(error.value)
    assert "latency_lut.export" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("jobs"), "manifest has no jobs"),
        (lambda m: m.update(schema=9), "has schema 9"),
        (lambda m: m["jobs"]["anchor"].update(file="../secret"), "'../secret' lies outside"),
        (lambda m: m["jobs"]["anchor"].update(file=".."), "'..' lies outside"),
        (lambda m: m.update(backend="abacus"), "--backend is 'abacus'"),
        (lambda m: m.update(backend="torch"), "is of torch, which runs no model files"),
    ],
)
def test_a_damaged_manifest_is_refused(change: Callable[[Any], None], message: str, folder: Path) -> None:
    _edit(folder / "manifest.json", change)
    with pytest.raises(UserError, match=message):
        measure.main(["blocks"])


def test_a_folder_of_a_detector_of_one_class_is_read(tmp_path: Path) -> None:
    space = get_space("mobileone-nano+ssdlite", 64, 1)
    write_folder(tmp_path / "blocks", {"anchor": anchor_job()}, FakeMachine(), space, purpose="table")
    assert read_folder(tmp_path / "blocks").num_classes == 1


def test_a_result_of_other_graphs_is_refused(folder: Path) -> None:
    measure.main(["blocks", "--samples", "2", "--out", "r.json"])
    whole = Path("r.json").read_text()
    _edit(Path("r.json"), lambda r: r["manifest"]["jobs"]["network 1"].update(blocks=["ffn"]))
    with pytest.raises(UserError, match=r"other graphs than .* for tiny: network 1; .*latency_lut\.export"):
        build.main(["--from", "r.json"])
    Path("r.json").write_text(whole)
    _edit(Path("r.json"), lambda r: r["measurement"]["timings"].pop("anchor"))
    with pytest.raises(UserError, match=r"r\.json has no times of anchor"):
        build.main(["--from", "r.json"])
    with pytest.raises(UserError, match=r"cannot read none\.json"):
        build.main(["--from", "none.json"])


@pytest.mark.parametrize("name", ["cat.jpg", "manifest.json"])
def test_a_folder_of_something_else_is_not_overwritten(name: str, workplace: Path) -> None:
    (workplace / "photos").mkdir()
    (workplace / "photos" / name).write_text('{"name": "a browser extension"}')
    with pytest.raises(UserError, match=f"photos holds {name}, which writing would delete; give another --out"):
        export.main(["--backend", "onnxruntime", "--space", "tiny", "--out", "photos"])
    assert (workplace / "photos" / name).exists()


def test_results_are_not_overwritten_by_exporting_again(folder: Path) -> None:
    measure.main(["blocks", "--samples", "2"])
    before = (folder / "result-table-onnxruntime-float32-1t-fake-device.json").read_bytes()
    with pytest.raises(UserError, match=r"blocks holds result-table-\S+\.json, which writing would delete"):
        export.main(["--backend", "onnxruntime", "--space", "tiny"])
    (result,) = folder.glob("result-*.json")
    assert result.read_bytes() == before
    result.unlink()
    export.main(["--backend", "onnxruntime", "--space", "tiny"])
    read_folder(folder)


def test_results_of_other_threads_are_other_files(folder: Path) -> None:
    measure.main(["blocks", "--samples", "2"])
    measure.main(["blocks", "--samples", "2", "--threads", "4"])
    assert len(list(folder.glob("result-*.json"))) == 2


def test_a_table_from_elsewhere_does_not_replace_that_of_this_machine(folder: Path) -> None:
    build.main(["--space", "tiny", "--samples", "2"])
    measure.main(["blocks", "--samples", "2"])
    build.main(["--from", RESULT])
    assert len(list(Path("runs/tables").glob("*.json"))) == 2


def test_flags_that_a_result_settles_are_refused(folder: Path) -> None:
    measure.main(["blocks", "--samples", "2", "--out", "r.json"])
    with pytest.raises(UserError, match=r"--from brings what was measured; leave --num-classes, --samples out"):
        build.main(["--from", "r.json", "--num-classes", "3", "--samples", "9", "--out", "t.json"])


@pytest.mark.parametrize(
    ("samples", "message"), [([], "samples_ms is empty"), ([0.1, -1.0], r"samples_ms is -1\.0; a measured time")]
)
def test_a_result_with_impossible_times_is_refused(samples: list[float], message: str, folder: Path) -> None:
    measure.main(["blocks", "--samples", "2", "--out", "r.json"])
    _edit(Path("r.json"), lambda r: r["measurement"]["timings"]["anchor"].update(samples_ms=samples))
    with pytest.raises(UserError, match=message):
        build.main(["--from", "r.json"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["manifest"].update(backend="foo"), "result: manifest.backend is 'foo'; there are onnxruntime, "),
        (lambda r: r["settings"].update(samples=-4), r"result\.settings: samples is -4; it is at least 1"),
        (
            lambda r: r["settings"].update(min_sample_ms=-1),
            r"result\.settings: min_sample_ms is -1\.0; ",
        ),
        (lambda r: r["settings"].update(samples_per_visit=0), r"result\.settings: samples_per_visit is 0; "),
        (lambda r: r["runtime"].update(threads=-3), r"result\.runtime: threads is -3; "),
        (
            lambda r: r["measurement"].update(unclean_share=7),
            r"result\.measurement: unclean_share is 7\.0; ",
        ),
    ],
)
def test_a_result_with_impossible_values_is_refused(change: Callable[[Any], None], message: str, folder: Path) -> None:
    measure.main(["blocks", "--samples", "2", "--out", "r.json"])
    _edit(Path("r.json"), change)
    with pytest.raises(UserError, match=rf"r\.json: {message}.*latency_lut\.measure") as error:
        build.main(["--from", "r.json"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("graph", "times_ms", "message"),
    [("network", [50_000.0, 50_000.0], r"predicted_ms is \d+"), ("", [1e-9, 1e-9], r"samples_ms is 0\.0")],
)
def test_a_result_whose_times_fit_no_table_is_refused(
    graph: str, times_ms: list[float], message: str, folder: Path
) -> None:
    def change(result: Any) -> None:
        for name, timing in result["measurement"]["timings"].items():
            if name.startswith(graph) and name != "anchor":
                timing["samples_ms"] = times_ms

    measure.main(["blocks", "--samples", "2", "--out", "r.json"])
    _edit(Path("r.json"), change)
    with pytest.raises(UserError, match=rf"r\.json gives no table: {message}.*; measure again"):
        build.main(["--from", "r.json", "--out", "t.json"])
    assert not Path("t.json").exists()


def test_a_table_where_a_result_is_wanted_is_told_from_one(folder: Path) -> None:
    build.main(["--space", "tiny", "--samples", "2", "--out", "t.json"])
    for command in (build.main, validate.main):
        with pytest.raises(UserError, match=r"^t\.json is a latency table already, not what .* gives; .* --table$"):
            command(["--from", "t.json", *(["--table", "t.json"] if command is validate.main else [])])


def test_a_table_calibrated_on_strange_networks_is_named_before_anything_is_measured(workplace: Path) -> None:
    build.main(["--space", "tiny", "--samples", "2", "--out", "t.json"])
    _edit(Path("t.json"), lambda t: t["calibration"]["networks"][0].update(arch={"depth": 3}))
    for command in (lambda: validate.main(["--table", "t.json"]), lambda: export.main(["--validate", "t.json"])):
        with pytest.raises(UserError, match=r"^t\.json: the table's calibration\.networks\.0: arch .*"):
            command()


def test_a_runtime_without_model_files_cannot_be_exported_for(workplace: Path) -> None:
    with pytest.raises(UserError, match="torch runs no model files"):
        export.main(["--backend", "torch", "--space", "tiny"])


def test_measuring_needs_neither_torch_nor_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real runtime, in a process in which they cannot be imported."""
    monkeypatch.setitem(search_spaces.SPACES, "toy", ToySpace)  # few blocks: each is exported
    export.main(["--backend", "onnxruntime", "--space", "toy", "--out", str(tmp_path / "blocks")])
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'timm', 'torchvision', 'scipy', 'pandas']))\n"
        "from latency_lut.measure import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "blocks"), "--samples", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "blocks").glob("result-*.json")
    assert Result.load(path).runtime == OnnxRuntimeBackend().describe()


def test_a_checksum_covers_names_and_contents(tmp_path: Path) -> None:
    for name, (file, text) in {"a": ("x", "1"), "b": ("y", "1"), "c": ("x", "2"), "d": ("x", "1")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    a, b, c, d = (checksum(tmp_path / name) for name in "abcd")
    assert a == d
    assert len({a, b, c}) == 3
