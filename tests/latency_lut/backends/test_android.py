"""An Android device: adb, the device's commands and the benchmark programs are the scripts of `fake_android`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import search_spaces
from latency_lut import build, export, measure, transfer, validate
from latency_lut.backends.android import adb
from latency_lut.backends.android.adb import FOLDER, AndroidDevice
from latency_lut.backends.android.backend import AndroidBackend
from latency_lut.backends.android.programs import PROGRAMS, WARM_UP
from latency_lut.backends.base import DeviceGone, Job
from latency_lut.backends.registry import make_backend
from latency_lut.measurement.manifest import Result
from latency_lut.tables.table import LatencyTable
from search_spaces import UserError
from tests.latency_lut.fake import FakeMachine, cost_ns
from tests.toy_family import ToySpace

SCRIPTS = Path(__file__).parents[1] / "fake_android"
BINARY = str(SCRIPTS / "benchmark_model")
SERIAL, TWIN = "39291FDJG0", "39291FDJG1"
OVERHEAD_US = 1000


def cost_us(key: str) -> int:
    return cost_ns(key) // 100


class Files(FakeMachine):
    """A runtime whose models say how long they take, in µs."""

    def __init__(self, threads: int = 1, precision: str = "float32", compute_unit: str = "cpu") -> None:
        super().__init__(threads=threads, precision=precision, name="litert", suffix=".tflite")

    def export(self, job: Job, path: Path) -> None:
        path.write_text(f"{OVERHEAD_US + sum(cost_us(block.key) for block in job.blocks)}\n")


class Phone:
    """What the scripts know of the device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "phone/data/local/tmp").mkdir(parents=True)
        (folder / "bin").symlink_to(SCRIPTS)
        self.lists(f"{SERIAL}\tdevice")
        self.lives_for(10**9)

    def lists(self, *lines: str) -> None:
        (self.folder / "devices").write_text("".join(f"{line}\n" for line in (*lines, "")))

    def lives_for(self, calls: int) -> None:
        (self.folder / "lifetime").write_text(f"{calls}\n")

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def models(self) -> Path:
        return self.folder / "phone" / FOLDER.removeprefix("/")


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    monkeypatch.setenv("PATH", str(SCRIPTS), prepend=":")
    monkeypatch.setenv("FAKE_ANDROID", str(tmp_path / "android"))
    monkeypatch.setitem(search_spaces.SPACES, "toy", ToySpace)
    monkeypatch.setattr("latency_lut.backends.litert.LiteRtBackend", Files)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Phone(tmp_path / "android")


def android(name: str = "litert", cores: str | None = None) -> AndroidBackend:
    files = Files()
    files.name = name
    return AndroidBackend(files, 2, SERIAL, str(SCRIPTS / PROGRAMS[name].name), cores)


def model(path: Path, us: int) -> Path:
    path.write_text(f"{us}\n")
    return path


class InProcess:
    """In place of the call of adb: the answers of the scripts, a thousand of which take too long.

    Args:
        left: calls until the phone is unplugged.
    """

    def __init__(self, left: int = 10**9) -> None:
        self.left = left
        self.runs = 0
        self._files: dict[str, str] = {}

    def __call__(self, *arguments: str, **_: object) -> tuple[int, str]:
        self.left -= 1
        if arguments == ("devices",):
            return 0, f"List of devices attached\n{SERIAL}\tdevice\n{TWIN}\tdevice\n\n"
        if self.left < 0:
            return 1, f"error: device '{SERIAL}' not found\n"
        if arguments[2] == "push":
            self._files[arguments[4]] = arguments[3] if arguments[3] == BINARY else Path(arguments[3]).read_text()
            return 0, ""
        if model := re.search(r"--graph=(\S+) .*--num_runs=(\d+)", arguments[-1]):
            self.runs += 1
            return 0, f"INFO: count={model[2]} curr={self._files[f'{FOLDER}/{model[1]}']}"
        return 0, "Google\nPixel 8\n15\narm64-v8a\n"


def test_a_table_is_measured_on_the_phone_and_goes_on_after_it_was_unplugged(
    phone: Phone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export.main(["--backend", "litert", "--space", "toy"])
    here = ["--device", f"adb:{SERIAL}", "--benchmark-binary", BINARY, "--samples", "3", "--cores", "f0"]
    monkeypatch.setattr(adb, "_call", InProcess(left=150))
    with pytest.raises(DeviceGone, match=rf"^{SERIAL} does not answer .* \d+\.tflite\); what was measured is kept"):
        measure.main(["blocks", *here])
    (partial,) = Path("blocks").glob("*.partial")
    visits = len(partial.read_text().splitlines()) - 1
    assert visits > 3

    monkeypatch.setattr(adb, "_call", plugged_in := InProcess())
    measure.main(["blocks", *here])
    (path,) = Path("blocks").glob("result-*.json")
    result = Result.load(path)
    jobs = len(result.manifest.jobs)
    assert plugged_in.runs == 5 * jobs + 2 * (3 * jobs - visits), (
        "the first, how many a sample takes, two a sample left"
    )
    assert (result.runtime.device, result.runtime.os) == ("Google Pixel 8, cores f0", "Android 15 arm64-v8a")
    assert result.runtime.runtime_version.startswith("benchmark_model ")

    build.main(["--from", str(path), "--out", "t.json"])
    for key, row in LatencyTable.load(Path("t.json")).rows.items():
        assert row.min_ms == pytest.approx(cost_us(key) / 1e3, rel=1e-6)
    capsys.readouterr()
    validate.main(["--table", "t.json", "--num-archs", "3", *here, "--json"])
    compared = json.loads(capsys.readouterr().out)
    assert compared["table"]["mape"] < 1e-6
    assert compared["runtime"] == compared["table_runtime"]


def test_a_measurement_of_one_phone_does_not_go_on_with_its_twin(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--backend", "litert", "--space", "toy", "--benchmark-binary", BINARY, "--samples", "2"]
    monkeypatch.setattr(adb, "_call", InProcess(left=150))
    with pytest.raises(DeviceGone):
        build.main([*flags, "--device", f"adb:{SERIAL}"])
    monkeypatch.setattr(adb, "_call", InProcess())
    with pytest.raises(UserError, match=rf"was begun with serial '{SERIAL}' \(now '{TWIN}'\); .*--no-resume$"):
        build.main([*flags, "--device", f"adb:{TWIN}"])


def test_the_files_of_a_phones_tables_name_it_and_what_is_next_is_done_there(
    phone: Phone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else that of another phone, or of this machine, would take their place."""
    monkeypatch.setattr(adb, "_call", InProcess())
    here = ["--backend", "litert", "--device", f"adb:{SERIAL}", "--benchmark-binary", BINARY, "--samples", "2"]
    next_ = f"next: python -m latency_lut.validate --device adb:{SERIAL} --benchmark-binary {BINARY} --table"
    build.main(["--space", "toy", *here])
    (path,) = Path("runs/tables").glob("*.json")
    assert path.name.endswith("-litert-float32-1t-Google-Pixel-8.json")
    assert capsys.readouterr().out.endswith(f"\n{next_} {path}\n")
    transfer.main(["--table", str(path), "--measure", "8", *here])
    transferred = path.with_stem(f"{path.stem}-transferred")
    assert transferred.exists() and capsys.readouterr().out.endswith(f"\n{next_} {transferred}\n")


def test_calls_are_those_of_the_documentation(phone: Phone, tmp_path: Path) -> None:
    backend = android(cores="f0")
    session = backend.load(model(tmp_path / "block.tflite", 700))
    session.run(5)
    flags = "--graph=0000.tflite --num_threads=2 --num_runs={} --min_secs=0 --warmup_runs=3 --warmup_min_secs=0"
    run = f"cd {FOLDER} || exit; taskset f0 ./benchmark_model {flags} --use_xnnpack=true"
    assert phone.calls == [
        "devices",
        *(
            f"-s {SERIAL} {call}"
            for call in (
                f"shell rm -rf {FOLDER} && mkdir -p {FOLDER}",
                f"push {BINARY} {FOLDER}/benchmark_model",
                f"shell chmod +x {FOLDER}/benchmark_model",
                f"push {tmp_path}/block.tflite {FOLDER}/0000.tflite",
                f"shell {run.format(1)}",
                f"shell {run.format(5)}",
            )
        ),
    ]
    assert backend.clock.now_ns() == 6 * 700_000
    assert {path.name for path in phone.models.iterdir()} == {"benchmark_model", "0000.tflite"}
    del backend, session
    assert phone.calls[-1] == f"-s {SERIAL} shell rm -rf {FOLDER}" and not phone.models.exists()


def test_times_are_read_from_the_log_where_the_program_writes_there(phone: Phone, tmp_path: Path) -> None:
    backend = android("executorch")
    backend.load(model(tmp_path / "block.pte", 2)).run(4)
    assert backend.clock.now_ns() == 5 * 2_000_000, "without the slower runs of the warm-up"


EXECUTORCH_1_5 = """I 00:00:00.031 executor_runner:executor_runner.cpp:377] Resetting threadpool with num threads = 1
I 00:00:00.047 executor_runner:executor_runner.cpp:382] Model executed successfully 8 time(s) in 12.000000 ms.
I 00:00:00.047 executor_runner:executor_runner.cpp:386] 1 outputs:"""
PERF_TEST = """First inference time cost: 196 ms
Total inference time cost: 0.49481 s
Average inference time cost total: 98.961997 ms
Peak working set size: 271122432 bytes"""


@pytest.mark.parametrize(
    ("backend", "output", "expected_ms"),
    [
        ("litert", "INFO: count=3 curr=900(all same)\nINFO: count=9 curr=40(all same)", 0.04),
        ("litert", "curr=900 count=3\ncurr=14 count=50 min=13 max=15 avg=1.42537e+04 std=0", 14.2537),
        ("litert", "ERROR: Failed to load model", None),
        ("executorch", EXECUTORCH_1_5, 1.5),
        ("executorch", "I 00:00:00.031 executor_runner.cpp:377] Model file 0000.pte is loaded.", None),
        ("onnxruntime", PERF_TEST, 98.961997),
        ("onnxruntime", "Average inference time cost: 0.5 ms", 0.5),
        ("onnxruntime", "Session creation time cost: 0.217932 s", None),
    ],
)
def test_times_are_read_of_every_version(backend: str, output: str, expected_ms: float | None) -> None:
    assert PROGRAMS[backend].mean_ms(output, 5) == (expected_ms and pytest.approx(expected_ms))


def test_no_more_is_asked_of_onnx_runtimes_program_than_it_takes() -> None:
    line = PROGRAMS["onnxruntime"].line("0000.onnx", 4, 20)
    assert line == "./onnxruntime_perf_test -e cpu -o 99 -m times -r 20 -x 4 -y 1 -I 0000.onnx"
    assert f"--num_executions={20 + WARM_UP} --cpu_threads=4 &" in PROGRAMS["executorch"].line("0000.pte", 4, 20)


@pytest.mark.parametrize(
    ("listed", "serial", "message"),
    [
        ([], "", r"--device is 'adb:'; connected: none; plug it in, turn on USB debugging"),
        (["A\tdevice"], "B", r"--device is 'adb:B'; connected: A is device; plug it in"),
        (["A\tdevice", "B\tdevice", "C\toffline"], "", r"'adb:', but 2 are connected; name one: A, B$"),
        (["A\tunauthorized"], "A", r"^A is unauthorized; unlock it and allow USB debugging"),
        (["A\toffline"], "", r"^A is offline; unlock it and plug it in again"),
        (["A\tno permissions (missing udev rules?); see [http://x]"], "A", r"^A is no permissions .* udev rule"),
        (["A\trecovery"], "A", r"^A is recovery; start Android on it$"),
    ],
)
def test_a_device_that_is_not_ready_is_told_with_the_remedy(
    listed: list[str], serial: str, message: str, phone: Phone
) -> None:
    phone.lists(*listed)
    with pytest.raises(UserError, match=message) as error:
        AndroidDevice(serial)
    assert "\n" not in str(error.value)


def test_the_only_device_that_is_ready_needs_no_name(phone: Phone) -> None:
    phone.lists("A\toffline", "B\tdevice")
    assert AndroidDevice().serial == "B"


def test_without_adb_it_is_said_where_it_comes_from(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"adb cannot be started \(No such file .*\); install Android's platform-tools"):
        AndroidDevice(SERIAL)


def test_a_phone_that_is_unplugged_meanwhile_is_told_from_one_that_refuses(phone: Phone, tmp_path: Path) -> None:
    backend = android()
    session = backend.load(model(tmp_path / "block.tflite", 700))
    phone.lives_for(0)
    with pytest.raises(DeviceGone, match=rf"^{SERIAL} does not answer any more \(it was to run block\.tflite\)"):
        session.run(1)


def test_what_the_phone_refuses_is_said_in_its_words(phone: Phone, tmp_path: Path) -> None:
    backend = android()
    session = backend.load(model(tmp_path / "block.tflite", 700))
    (phone.models / "0000.tflite").unlink()
    with pytest.raises(UserError, match=rf"^{SERIAL} cannot run block\.tflite: ERROR: Benchmarking failed\.$") as error:
        session.run(1)
    assert not isinstance(error.value, DeviceGone)


def test_a_program_that_says_no_time_is_named(phone: Phone, tmp_path: Path) -> None:
    binary = tmp_path / "quiet"
    binary.write_text("#!/bin/sh\n")
    backend = AndroidBackend(Files(), 1, SERIAL, str(binary))
    with pytest.raises(UserError, match=r"quiet says no time of block\.tflite; give the benchmark_model that LiteRT"):
        backend.load(model(tmp_path / "block.tflite", 700))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_backend("litert", device="adb:A"),
            r"--benchmark-binary is missing; give LiteRT's benchmark_model, built for the device",
        ),
        (
            lambda: make_backend("litert", device="adb:A", benchmark_binary="no/such"),
            r"--benchmark-binary is 'no/such', which is no file; give LiteRT's benchmark_model",
        ),
        (
            lambda: make_backend("litert", device="adb:A", benchmark_binary=BINARY, cores="big"),
            r"--cores is 'big'; give a hexadecimal mask",
        ),
        (
            lambda: make_backend("litert", device="adb:A", benchmark_binary=BINARY, cores="0"),
            r"--cores is '0'; give a hexadecimal mask",
        ),
        (
            lambda: make_backend("coreml", device="adb:A", benchmark_binary=BINARY),
            r"'adb:A', but coreml is not measured on Android devices; these are: litert, executorch, onnxruntime",
        ),
        (lambda: make_backend("litert", device="my phone"), r"--device is 'my phone'; litert reaches .* as adb:SERIAL"),
        (lambda: make_backend("litert", cores="f0"), r"--cores are for an Android device; give it as --device adb:"),
    ],
)
def test_bad_flags_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_samples_are_few_of_many_runs() -> None:
    settings = android().settings(40)
    assert (settings.samples, settings.samples_per_visit, settings.runs_together) == (12, 4, True)
    assert android().settings(2).samples_per_visit == 1
