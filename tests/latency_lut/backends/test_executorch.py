"""The real runtime where it is installed; elsewhere what it says instead."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from latency_lut.backends import executorch
from latency_lut.backends.base import Job, blocks_job
from latency_lut.backends.executorch import ExecuTorchBackend
from search_spaces import SearchSpace, UserError
from tests.contracts.backend import FileBackendContract
from tests.latency_lut.conftest import make_tiny
from tests.latency_lut.parity import parity_jobs

installed = pytest.mark.skipif(find_spec("executorch") is None, reason="executorch is not installed")


@installed
@pytest.mark.slow
class TestExecuTorch(FileBackendContract):
    @classmethod
    def make_backend(cls) -> ExecuTorchBackend:
        return ExecuTorchBackend()


def output(path: Path, images: torch.Tensor) -> torch.Tensor:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    assert method is not None
    result = method.execute((images,))[0]
    assert isinstance(result, torch.Tensor)
    return result


def errors(backend: ExecuTorchBackend, job: Job, path: Path) -> float:
    """Largest difference from the module's output, as a share of the output's largest value."""
    backend.export(job, path)
    images = torch.randn(1, *job.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = job.module()(images)
    return float((output(path, images) - wanted).abs().max() / wanted.abs().max())


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", list(parity_jobs(make_tiny())))
def test_the_program_is_the_module(name: str, tiny: SearchSpace, tmp_path: Path) -> None:
    assert errors(ExecuTorchBackend(), parity_jobs(tiny)[name], tmp_path / "model.pte") < 1e-5


@installed
@pytest.mark.slow
def test_int8_is_quantized_and_still_the_block(tiny: SearchSpace, tmp_path: Path) -> None:
    job, whole = parity_jobs(tiny)["attention"], tmp_path / "whole.pte"
    ExecuTorchBackend().export(job, whole)
    assert 1e-4 < errors(ExecuTorchBackend(precision="int8"), job, tmp_path / "int8.pte") < 0.1
    assert (tmp_path / "int8.pte").stat().st_size < whole.stat().st_size


@installed
def test_the_steps_of_int8_are_for_what_relu6_lets_through() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU6(inplace=True), nn.Conv2d(16, 8, 1)).eval()
    images = torch.randn(1, 3, 16, 16)
    quantized = executorch._quantize(torch.export.export(layers, (images,)).module(), [images.numpy()])
    assert isinstance(quantized, torch.fx.GraphModule)
    clamp = next(node for node in quantized.graph.nodes if "hardtanh" in str(node.target))
    assert "conv2d" in str(clamp.args[0].target), "nothing rounds what comes before the clamp"
    (rounded,) = clamp.users
    _, scale, zero, low, high, _ = rounded.args
    assert ((low - zero) * scale, (high - zero) * scale) == pytest.approx(
        (0, layers[:3](images).max().item()), abs=0.02
    )


@installed
def test_what_falls_back_to_portable_kernels_is_seen(tiny: SearchSpace) -> None:
    blocks = {block.kind: block for block in tiny.lower(tiny.largest)}
    assert ExecuTorchBackend().prepare(blocks_job([blocks["ffn"]])).devices == {"xnnpack": 1, "portable": 0}
    shares = ExecuTorchBackend().prepare(blocks_job([blocks["attention"]])).devices
    assert 0 < shares["portable"] < 0.1, "four expand_copy, and no gathering of biases"


@installed
def test_a_program_of_another_exporter_runs(tmp_path: Path) -> None:
    from executorch.exir import to_edge

    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(1, 3, 4, 4),))
    (tmp_path / "model.pte").write_bytes(to_edge(program).to_executorch().buffer)
    session = ExecuTorchBackend().load(tmp_path / "model.pte")
    session.run(1)
    assert session.devices == {}


THREADS = """
import os, sys
from pathlib import Path
from latency_lut.backends.executorch import ExecuTorchBackend
def threads(): return len(os.listdir("/proc/self/task"))
import executorch.extension.pybindings.portable_lib as lib
lib._unsafe_reset_threadpool(1)
before = threads()
sessions = [ExecuTorchBackend(threads=3).load(Path(sys.argv[1])) for _ in range(2)]
[session.run(1) for session in sessions]
print(threads() - before)
"""


@installed
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_sessions_share_a_pool_of_so_many_threads(tiny: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    ExecuTorchBackend().export(blocks_job(tiny.lower(tiny.smallest)[:1]), path)
    command = [sys.executable, "-c", THREADS, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert run.stdout.split() == ["2"], "the caller is the third"


@installed
def test_another_number_of_threads_needs_another_process(tiny: SearchSpace) -> None:
    job = blocks_job(tiny.lower(tiny.smallest)[:1])
    ExecuTorchBackend(threads=1).prepare(job)
    with pytest.raises(
        UserError, match="threads is 2, but ExecuTorch's pool in this process has 1; use another process"
    ):
        ExecuTorchBackend(threads=2).prepare(job)


def test_a_missing_library_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tiny: SearchSpace, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    backend, job = ExecuTorchBackend(), blocks_job(tiny.lower(tiny.smallest)[:1])
    for use in (backend.describe, lambda: backend.export(job, tmp_path / "a"), lambda: backend.load(tmp_path / "a")):
        with pytest.raises(UserError, match="executorch is not installed; pip install executorch") as error:
            use()
        assert "\n" not in str(error.value)
