"""The real runtime where it is installed; elsewhere what it says instead."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from latency_lut.backends.base import Job, blocks_job
from latency_lut.backends.litert import LiteRtBackend
from search_spaces import SearchSpace, UserError
from tests.contracts.backend import FileBackendContract
from tests.latency_lut.conftest import make_tiny
from tests.latency_lut.parity import parity_jobs
from tests.latency_lut.rare_images import errors_of_rare_images

installed = pytest.mark.skipif(find_spec("litert_torch") is None, reason="litert-torch is not installed")


@installed
@pytest.mark.slow
class TestLiteRt(FileBackendContract):
    @classmethod
    def make_backend(cls) -> LiteRtBackend:
        return LiteRtBackend()


def output(path: Path, images: np.ndarray) -> np.ndarray:
    """In float32; what an int8 model takes and gives is converted as the model's own scales say."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    if source["dtype"] == np.int8:
        scale, zero = source["quantization"]
        images = np.clip(np.round(images / scale + zero), -128, 127).astype(np.int8)
    interpreter.set_tensor(source["index"], images)
    interpreter.invoke()
    result = np.asarray(interpreter.get_tensor(target["index"]))
    if target["dtype"] == np.int8:
        scale, zero = target["quantization"]
        return (result.astype(np.float32) - zero) * scale
    return result


def error(backend: LiteRtBackend, job: Job, path: Path) -> float:
    """Largest difference from the module's output, as a share of the output's largest value."""
    backend.export(job, path)
    images = torch.randn(1, *job.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = job.module()(images).numpy()
    return float(np.abs(output(path, images.numpy()) - wanted).max() / np.abs(wanted).max())


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", list(parity_jobs(make_tiny())))
def test_the_model_is_the_module(name: str, tiny: SearchSpace, tmp_path: Path) -> None:
    assert error(LiteRtBackend(), parity_jobs(tiny)[name], tmp_path / "model.tflite") < 1e-5


@installed
@pytest.mark.slow
def test_int8_is_quantized_and_still_the_block(tiny: SearchSpace, tmp_path: Path) -> None:
    job, whole, path = parity_jobs(tiny)["attention"], tmp_path / "whole.tflite", tmp_path / "int8.tflite"
    LiteRtBackend().export(job, whole)
    assert 1e-4 < error(LiteRtBackend(precision="int8"), job, path) < 0.2
    assert path.stat().st_size < whole.stat().st_size
    LiteRtBackend(precision="int8").load(path).run(1)  # its input is int8


@installed
@pytest.mark.slow
def test_an_int8_model_answers_all_but_the_rarest_image(tmp_path: Path) -> None:
    ten, hundred = errors_of_rare_images(LiteRtBackend(precision="int8"), tmp_path / "int8.tflite", output)
    assert ten < 0.05 and hundred > 0.5


SCRIPT = """
import os, sys
sys.modules["torch"] = None  # cannot be imported
from pathlib import Path
from latency_lut.backends.litert import LiteRtBackend
threads = len(os.listdir("/proc/self/task"))
session = LiteRtBackend(threads=3).load(Path(sys.argv[1]))
session.run(1)
print(len(os.listdir("/proc/self/task")) - threads)
"""


@installed
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_model_runs_without_torch_on_so_many_threads(tiny: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    LiteRtBackend().export(blocks_job(tiny.lower(tiny.smallest)[:1]), path)
    command = [sys.executable, "-c", SCRIPT, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert run.stdout.split() == ["2"], "the caller is the third"


@installed
def test_nothing_but_results_is_printed(tiny: SearchSpace, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    LiteRtBackend().export(blocks_job(tiny.lower(tiny.smallest)[:1]), tmp_path / "model.tflite")
    assert capfd.readouterr().out == ""


def test_a_missing_library_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tiny: SearchSpace, tmp_path: Path
) -> None:
    for module in ("ai_edge_litert", "litert_torch"):
        monkeypatch.setitem(sys.modules, module, None)
    backend, job = LiteRtBackend(), blocks_job(tiny.lower(tiny.smallest)[:1])
    for use, line in (
        (backend.describe, "ai_edge_litert is not installed; .*ai-edge-litert==.* is enough"),
        (lambda: backend.load(tmp_path / "a"), "ai_edge_litert is not installed; .*ai-edge-litert==.* is enough"),
        (
            lambda: backend.export(job, tmp_path / "a"),
            "litert_torch is not installed; pip install litert-torch==.* --python",
        ),
    ):
        with pytest.raises(UserError, match=line) as raised:
            use()
        assert "\n" not in str(raised.value)
