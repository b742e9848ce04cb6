"""The list of runtimes, the flags that choose one, and --python."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import search_spaces
from latency_lut import build, validate
from latency_lut.backends import __main__ as listing
from latency_lut.backends.onnxruntime import OnnxRuntimeBackend
from latency_lut.backends.registry import BACKENDS, make_backend
from latency_lut.backends.tvm import TUNING_S
from latency_lut.measurement.interpreter import CHILD, delegate
from latency_lut.measurement.validate import backend_of
from latency_lut.tables.table import LatencyTable
from search_spaces import UserError
from tests.latency_lut.conftest import make_tiny
from tests.latency_lut.fake import FakeMachine

LIBRARIES = ("openvino", "executorch", "ai_edge_litert", "litert_torch", "coremltools", "onnxruntime", "torch", "tvm")


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_is_made_without_its_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in LIBRARIES:
        monkeypatch.setitem(sys.modules, library, None)
    for unit in BACKENDS[name].units:
        backend = make_backend(name, compute_unit=unit)
        assert (backend.name, backend.precision) == (name, BACKENDS[name].precisions[0])
        with pytest.raises(UserError, match=r"pip install|Core ML runs on macOS"):
            backend.describe()


def test_defaults_and_choices_reach_the_backend() -> None:
    backend = make_backend("onnxruntime", threads=3, precision="int8")
    assert isinstance(backend, OnnxRuntimeBackend)
    runtime = backend.describe()
    assert (runtime.threads, runtime.precision, runtime.compute_unit) == (3, "int8", "cpu")
    assert make_backend("onnxruntime").describe().threads == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "ncnn"}, r"--backend is 'ncnn'; choose from onnxruntime, .*coreml"),
        (
            {"name": "coreml", "compute_unit": "npu"},
            r"--compute-unit of coreml is 'npu'; choose from .*cpu_and_ne",
        ),
        (
            {"name": "onnxruntime", "precision": "int4"},
            r"--precision of onnxruntime is 'int4'; choose from float32",
        ),
        ({"name": "coreml", "threads": 4}, r"--threads is 4, but coreml .* leave --threads out"),
        ({"name": "openvino", "device": "my phone"}, r"--device is 'my phone', but openvino .* it is for coreml"),
        ({"name": "tvm", "tuning_s": 9}, r"--tuning-s is 9, but tvm tunes no kernels; it is for tvm_tuned"),
    ],
)
def test_what_is_not_there_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_backend(**given)  # type: ignore[arg-type]


def test_the_list_says_what_runs_and_why_the_rest_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    listing.main(["--json"])
    rows = {(row["backend"], row["compute_unit"]): row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {(name, unit) for name, kind in BACKENDS.items() for unit in kind.units}
    assert all(("runtime" in row) != ("why_not" in row) for row in rows.values())
    assert rows["onnxruntime", "cpu"]["runtime"]["precision"] == "float32"
    assert "pip install" in rows["openvino", "cpu"]["why_not"]
    listing.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows)
    assert any("onnxruntime" in line and "yes" in line and "int8" in line for line in lines)
    assert any("openvino" in line and "pip install" in line for line in lines)


def test_a_table_is_validated_by_its_own_runtime(table_file: Path, tmp_path: Path) -> None:
    data = json.loads(table_file.read_text())
    data["provenance"]["backend"] = "onnxruntime"
    data["provenance"]["runtime"] |= {"precision": "int8", "threads": 2}
    (tmp_path / "t.json").write_text(json.dumps(data))
    backend = backend_of(LatencyTable.load(tmp_path / "t.json"))
    assert isinstance(backend, OnnxRuntimeBackend)
    assert (backend.threads, backend.precision) == (2, "int8")


def test_what_a_table_is_compared_with_is_tuned_as_long(table: LatencyTable) -> None:
    runtime = replace(table.provenance.runtime, precision="float32")
    tuned = replace(table.provenance, backend="tvm_tuned", runtime=runtime, tuning_s=30)
    assert backend_of(replace(table, provenance=tuned)).tuning_s == 30
    before = replace(tuned, tuning_s=None)  # of an older version
    assert backend_of(replace(table, provenance=before)).tuning_s == TUNING_S


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """This one, but of a module it only tells how it was called, as JSON, and ends with $STATUS."""
    script = tmp_path / "other python"
    script.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "if sys.argv[1] == '-c':\n    program, sys.argv = sys.argv[2], sys.argv[2:]\n    sys.exit(exec(program))\n"
        f"with open({str(tmp_path / 'call.json')!r}, 'w') as file:\n"
        "    json.dump([sys.argv[1:], os.environ['PYTHONPATH'].split(os.pathsep)], file)\n"
        "sys.exit(int(os.environ.get('STATUS', 0)))\n"
    )
    script.chmod(0o755)
    return script


def test_another_interpreter_gets_the_same_command(interpreter: Path, tmp_path: Path) -> None:
    command = ["--samples", "3", "--python", str(interpreter), "--space", "efficientformerv2-nano"]
    build.main(command)
    argv, path = json.loads((tmp_path / "call.json").read_text())
    assert argv == ["-m", "latency_lut.build", *command]
    assert (Path(path[0]) / "latency_lut" / "build.py").exists(), "our packages need not be installed there"


def test_its_exit_status_is_ours(interpreter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATUS", "2")
    with pytest.raises(SystemExit) as error:
        validate.main(["--python", str(interpreter)])
    assert error.value.code == 2


def test_no_interpreter_no_delegation() -> None:
    assert not delegate(None, "latency_lut.build", [])


def test_a_table_measured_in_another_environment_says_so(
    table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process that --python has started measures, and spells the command with it."""
    monkeypatch.setenv(CHILD, "1")
    monkeypatch.setitem(search_spaces.SPACES, "tiny", make_tiny)
    monkeypatch.setattr("latency_lut.backends.onnxruntime.OnnxRuntimeBackend", lambda **_: FakeMachine())
    out = tmp_path / "t.json"
    build.main(["--space", "tiny", "--python", "there/python", "--samples", "2", "--out", str(out)])
    command = f"python -m latency_lut.build --python there/python --space tiny --samples 2 --out {out}"
    assert LatencyTable.load(out).provenance.command == command
    assert f"next: python -m latency_lut.validate --table {out} --python there/python" in capsys.readouterr().out


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--python .*/none cannot be started: No such file"):
        delegate(str(tmp_path / "none"), "latency_lut.build", [])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("true", r"is no Python 3\.11 or newer; give an interpreter that is$"),
        ('echo "$@"', r"is no Python 3\.11 or newer"),
        ("echo old numpy", r"is no Python 3\.11 or newer"),
        (
            f'exec {sys.executable} -I -S "$@"',
            r"lacks filelock .*; install it there: \S+/it -m pip install filelock fvcore numpy platformdirs .* tqdm$",
        ),
    ],
)
def test_an_interpreter_that_cannot_run_us_is_refused_first(script: str, message: str, tmp_path: Path) -> None:
    it = tmp_path / "it"
    it.write_text(f"#!/bin/sh\n{script}\n")
    it.chmod(0o755)
    with pytest.raises(UserError, match=rf"^--python \S+/it {message}"):
        delegate(str(it), "latency_lut.build", [])


def test_a_real_interpreter_runs_the_module_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.devnull)
    assert delegate(sys.executable, "latency_lut.backends", ["--json"])
    assert len(json.loads(capfd.readouterr().out)) >= len(BACKENDS)
