"""PyTorch: the contract, what a session really runs, the profile; CUDA on a fake, and on a GPU where there is one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latency_lut.backends.base import Backend, Job, blocks_job, network_job
from latency_lut.backends.operator_kinds import OTHER, operator_kind
from latency_lut.backends.protocol import ReportedClock, measure
from latency_lut.backends.pytorch import CompiledTorchBackend, GraphRun, TorchBackend
from search_spaces import SearchSpace, UserError
from tests.contracts.backend import BackendContract
from tests.rounding import assert_equal_but_for_rounding

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class TestTorch(BackendContract):
    @classmethod
    def make_backend(cls) -> Backend:
        return TorchBackend()


@pytest.mark.heavy
class TestTorchCompiled(BackendContract):
    @classmethod
    def make_backend(cls) -> Backend:
        return CompiledTorchBackend()


@on_gpu
class TestTorchOnGpu(BackendContract):
    @classmethod
    def make_backend(cls) -> Backend:
        return TorchBackend(compute_unit="cuda")


class Witness(nn.Module):
    """Notes under what conditions it, or its deployed copy, is run."""

    def __deepcopy__(self, _: object) -> Witness:
        return self

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.seen: list[dict[str, Any]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(
            {
                "threads": torch.get_num_threads(),
                "inference": torch.is_inference_mode_enabled(),
                "training": self.training,
                "dtypes": {images.dtype, self.conv.weight.dtype},
                "channels_last": images.is_contiguous(memory_format=torch.channels_last),
            }
        )
        return self.conv(images)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_session_runs_the_module_as_asked(precision: str, threads: int) -> None:
    witness = Witness()
    session = TorchBackend(threads, precision).prepare(Job((3, 8, 8), lambda: witness))
    TorchBackend(threads=2).prepare(Job((3, 8, 8), Witness)).run(1)
    witness.seen.clear()
    before = torch.get_num_threads()
    session.run(3)
    assert torch.get_num_threads() == before
    asked = {"threads": threads, "inference": True, "training": False, "dtypes": {getattr(torch, precision)}}
    assert witness.seen == [{**asked, "channels_last": True}] * 3


@pytest.mark.heavy
def test_code_is_generated_once_for_more_operators_than_onednn_keeps() -> None:
    """In a process of its own: oneDNN asks how much to keep when it generates the first."""
    script = """
import torch
from latency_lut.backends.base import Job
from latency_lut.backends.pytorch import TorchBackend
session = TorchBackend().prepare(Job((8, 8, 8), lambda: torch.nn.Conv2d(8, 8, 5)))
with torch.inference_mode():
    for width in range(9, 1109):
        torch.nn.functional.conv2d(torch.zeros(1, 8, 8, width), torch.zeros(8, 8, 5, 5))
print("again", flush=True)
session.run(1)
"""
    environment = {**os.environ, "ONEDNN_VERBOSE": "profile_create", "OMP_NUM_THREADS": "1"}
    environment.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    before, again = done.stdout.split("again\n")
    if before.count("create:cache_miss") < 1024:
        pytest.skip("this torch runs convolutions without oneDNN here")
    assert "create:cache_hit" in again and "create:cache_miss" not in again


def test_a_compiled_module_computes_the_same_however_many_have_been_compiled(tiny: SearchSpace) -> None:
    backend = CompiledTorchBackend()
    with torch._dynamo.config.patch(recompile_limit=1):
        for job in (Job((3, 8, 8), nn.Hardswish), blocks_job(tiny.lower(tiny.smallest)[1:2])):
            forward, images = backend.loaded(job)
            with torch.inference_mode():
                assert_equal_but_for_rounding(forward(images), job.module()(images), job.module())


def test_the_profile_is_of_what_the_module_calls(tiny: SearchSpace) -> None:
    job = network_job(tiny, tiny.largest)
    operators = TorchBackend().profile(job, 3)
    modules = Counter(type(module) for module in job.module().modules())
    depthwise = sum(isinstance(module, nn.Conv2d) and module.groups > 1 for module in job.module().modules())
    convolutions = [op for op in operators if op.name == "aten::conv2d"]
    assert operators[0] == convolutions[0] and convolutions[0].detail == "dense", "in order of execution"
    assert len(convolutions) == modules[nn.Conv2d], "each once, averaged over the runs"
    assert sum(op.detail == "depthwise" for op in convolutions) == depthwise > 0
    assert all(op.type.startswith("aten::") and op.type != op.name for op in convolutions), "what spends the time"
    assert sum(operator_kind(op) == "softmax" for op in operators) == sum(b.kind == "attention" for b in job.blocks) + 1
    assert all(op.ms > 0 for op in operators)


def test_the_profile_of_a_compiled_module_is_of_its_kernels(tiny: SearchSpace) -> None:
    operators = CompiledTorchBackend().profile(blocks_job(tiny.lower(tiny.smallest)[1:2]), 2)
    assert any("convolution" in op.type and op.detail == "depthwise" for op in operators)
    assert OTHER not in {operator_kind(op) for op in operators}


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^precision is 'float16'; torch on cpu has float32, bfloat16$"):
        TorchBackend(precision="float16").describe()
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"^compute unit is 'cuda', but torch finds no GPU here"):
            TorchBackend(compute_unit="cuda").prepare(Job((3, 8, 8), Witness))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler and finds no no-such-compiler"):
        CompiledTorchBackend().describe()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"^torch is not installed; pip install torch$"):
        TorchBackend().describe()


class FakeGpu:
    """In place of torch.cuda, with kernels of 3 ms; captured ones run when they are replayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 0.0
        self.kernels: list[str] = []
        self._recording: list[Tensor] | None = None
        stream = SimpleNamespace(wait_stream=lambda _other: None)
        fakes = {
            "Stream": lambda: stream,
            "current_stream": lambda: stream,
            "stream": contextlib.nullcontext,
            "CUDAGraph": SimpleNamespace,
            "graph": self._capture,
            "Event": self._event,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def forward(self, images: Tensor) -> Tensor:
        if self._recording is None:
            self._run("eager")
        else:
            self._recording.append(images)
        return images + 1

    def _run(self, how: str) -> None:
        self.kernels.append(how)
        self.now_ms += 3

    @contextlib.contextmanager
    def _capture(self, graph: Any, pool: Any = None) -> Iterator[None]:
        self._recording = recorded = list[Tensor]()
        yield
        self._recording = None

        def replay() -> None:
            for _ in recorded:
                self._run("replayed")

        graph.replay = replay

    def _event(self, enable_timing: bool) -> Any:
        event = SimpleNamespace(ms=-1.0, synchronize=lambda: None)
        event.record = lambda: setattr(event, "ms", self.now_ms)
        event.elapsed_time = lambda end: end.ms - event.ms
        return event


def test_the_event_clock_counts_replays_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, clock = FakeGpu(monkeypatch), ReportedClock()
    run = GraphRun(gpu.forward, torch.zeros(1), clock)
    assert gpu.kernels and set(gpu.kernels) == {"eager"}, "warm-up"
    assert clock.now_ns() == 0 and clock.wait_ns() is None
    gpu.kernels.clear()
    run(4)
    gpu.now_ms += 100  # other work
    run(1)
    assert gpu.kernels == ["replayed"] * 5
    assert clock.now_ns() == 15_000_000


@on_gpu
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_graph_computes_what_the_module_does(precision: str, tiny: SearchSpace) -> None:
    backend = TorchBackend(precision=precision, compute_unit="cuda")
    forward, images = backend.loaded(network_job(tiny, tiny.largest))
    with torch.inference_mode():
        run = GraphRun(forward, images, ReportedClock())
        expected = forward(images).clone()
        images.copy_(images.flip(-1))
        flipped = forward(images).clone()
        run(2)
    torch.testing.assert_close(run.output, flipped, rtol=1e-2, atol=1e-3)
    assert not torch.equal(run.output, expected), "it reads the input anew"


@pytest.mark.parametrize(("unit", "together"), [("cpu", False), ("cuda", True)])
def test_runs_are_timed_alone_where_they_end_when_the_call_does(unit: str, together: bool) -> None:
    assert TorchBackend(compute_unit=unit).settings(7).runs_together is together


@on_gpu
def test_graphs_of_different_size_are_timed_by_events(tiny: SearchSpace) -> None:
    backend = TorchBackend(compute_unit="cuda")
    runs = {name: backend.prepare(network_job(tiny, getattr(tiny, name))).run for name in ("smallest", "largest")}
    timings = measure(runs, backend.settings(5), backend.clock).timings
    assert 0 < timings["smallest"].min_ms < timings["largest"].min_ms, "four blocks and two attentions more"


@on_gpu
def test_the_event_clock_agrees_with_the_wall_clock(tiny: SearchSpace) -> None:
    backend = TorchBackend(compute_unit="cuda")
    run = backend.prepare(network_job(tiny, tiny.largest)).run
    run(10)
    torch.cuda.synchronize()
    before, start = backend.clock.now_ns(), time.perf_counter_ns()
    run(2000)
    wall = time.perf_counter_ns() - start
    assert 0.8 * wall < backend.clock.now_ns() - before < 1.01 * wall


@on_gpu
def test_the_profile_on_a_gpu_is_of_its_kernels(tiny: SearchSpace) -> None:
    operators = TorchBackend(compute_unit="cuda").profile(network_job(tiny, tiny.largest), 3)
    assert operators[0].detail == "dense" and any(op.detail == "depthwise" for op in operators)
    assert all(op.ms > 0 for op in operators)
