"""The real runtime: the contract, parity with torch, and that it does what it was asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from latency_lut.backends.base import FileBackend, Job, network_job
from latency_lut.backends.openvino import OpenVinoBackend, _convolution
from search_spaces import SearchSpace, UserError
from tests.contracts.backend import FileBackendContract
from tests.rounding import rounding

pytest.importorskip("openvino")


class TestOpenVino(FileBackendContract):
    @classmethod
    def make_backend(cls) -> FileBackend:
        return OpenVinoBackend()


@pytest.fixture
def job(tiny: SearchSpace) -> Job:
    return network_job(tiny, tiny.largest)


def request(backend: OpenVinoBackend, job: Job, folder: Path) -> Any:
    """What a session of the job runs."""
    path = folder / "model.onnx"
    backend.export(job, path)
    return backend._request(path)


def error(backend: OpenVinoBackend, job: Job, folder: Path) -> float:
    """Largest difference to the module's output, relative to its largest value."""
    asked = request(backend, job, folder)
    (output,) = asked.infer().values()
    with torch.no_grad():
        expected = job.module()(torch.from_numpy(asked.get_input_tensor().data.copy())).numpy()
    return float(np.abs(output - expected).max() / np.abs(expected).max())


def runs_here(precision: str) -> bool:
    try:
        OpenVinoBackend(precision=precision).describe()
    except UserError:
        return False
    return True


def test_the_loaded_model_computes_what_the_module_does_in_float32(job: Job, tmp_path: Path) -> None:
    """Also where the CPU has faster, less precise instructions."""
    assert error(OpenVinoBackend(), job, tmp_path) < rounding(job.module())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_lower_precision_is_used_or_refused(precision: str, job: Job, tmp_path: Path) -> None:
    backend = OpenVinoBackend(precision=precision)
    if runs_here(precision):
        assert rounding(job.module()) < error(backend, job, tmp_path) < 0.1
        return
    with pytest.raises(UserError, match=f"precision is '{precision}'; .*float32") as refused:
        backend.prepare(job)
    assert "\n" not in str(refused.value)


def test_threads_are_those_asked_for(job: Job, tmp_path: Path) -> None:
    compiled = request(OpenVinoBackend(threads=1), job, tmp_path).get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    with pytest.raises(UserError, match=r"threads is 5000, but OpenVINO uses \d+ on this CPU"):
        OpenVinoBackend(threads=5000).prepare(job)


def test_the_profile_is_of_the_operators_that_run(job: Job) -> None:
    operators = OpenVinoBackend().profile(job, 5)
    convolutions = [op for op in operators if op.type in ("Convolution", "GroupConvolution")]
    modules = [module for module in job.module().modules() if isinstance(module, nn.Conv2d)]
    assert convolutions[0].detail == "dense" and "stem" in convolutions[0].name, "in order of execution"
    # The shortest are not reported.
    assert 0 < sum(op.detail == "depthwise" for op in convolutions) <= sum(module.groups > 1 for module in modules)
    assert len(modules) / 2 < len(convolutions) <= len(modules)
    assert {"Gelu", "Parameter"}.isdisjoint(op.type for op in operators), "fused ones do not run"
    assert all(op.ms >= 0 for op in operators) and sum(op.ms for op in operators) > 0


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ((8, 1, 1, 3, 3), "depthwise"),
        ((2, 4, 4, 3, 3), "grouped"),
        ((2, 4, 4, 1, 1), "grouped"),
        ((8, 4, 1, 1), "pointwise"),
        ((8, 1, 3, 3), "dense"),
    ],
)
def test_kinds_of_convolutions(weights: tuple[int, ...], kind: str) -> None:
    assert _convolution(weights) == kind


def test_loading_needs_no_torch(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OpenVinoBackend()
    backend.export(job, tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "torch", None)
    session = backend.load(tmp_path / "model.onnx")
    session.run(1)
    assert session.devices == {"cpu": 1.0}


def test_without_openvino_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"^openvino is not installed; pip install openvino$"):
        OpenVinoBackend().describe()
