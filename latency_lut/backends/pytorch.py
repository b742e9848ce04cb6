"""PyTorch, batch 1, as its users run it: eager or compiled, on a CPU or as CUDA graphs on a GPU.

Eager modules are run as they are: nothing is folded or fused beforehand, for who ships eager PyTorch seldom does so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from latency_lut.backends.base import Backend, Job, OperatorTime, Runtime, Session, require
from latency_lut.backends.protocol import Clock, ReportedClock, Settings, SystemClock
from search_spaces import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

CPU, CUDA = "cpu", "cuda"
PRECISIONS = {CPU: ("float32", "bfloat16"), CUDA: ("float32", "bfloat16", "float16")}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
WARM_UP = 3  # runs before a capture or a profile, in which libraries choose and load their kernels

Forward = Callable[["Tensor"], "Tensor"]


class TorchBackend(Backend):
    """Eager PyTorch.

    On a CPU tensors are channels-last: the nano space's largest network takes 7.9 instead of 9.5 ms, its smallest 1.6
    instead of 2.2, the largest at 224 px 169 instead of 167 ms (AMD EPYC of the Zen 4 generation, 1 thread, float32,
    torch 2.15). On a GPU they are for half precision, as cuDNN's tensor-core kernels want them; float32 there means
    PyTorch's default, which is TF32 in convolutions.

    All sessions share OpenMP's workers, which spin between operators and are left to: with 2 threads 94 to 98 of 100
    samples are undisturbed so, and small networks would take 2.4 times as long with OMP_WAIT_POLICY=passive.

    A GPU runs each job as a CUDA graph, for launching a kernel takes longer than many a small block computes. A graph
    that is shorter than its own launch, some microseconds, takes as long as that.

    Args:
        threads: that compute one operator together; not heeded on a GPU.
        compute_unit: "cpu" or "cuda".
    """

    name = "torch"
    runtime = "PyTorch"

    def __init__(self, threads: int = 1, precision: str = "float32", compute_unit: str = CPU) -> None:
        self.threads, self.precision, self.compute_unit = threads, precision, compute_unit
        self.clock: Clock = ReportedClock() if compute_unit == CUDA else SystemClock()
        keep_primitives()
        self._pool: Any = None

    def describe(self) -> Runtime:
        torch = self._torch()
        found = self.on_this_cpu(self.runtime, torch.__version__)
        if self.compute_unit == CUDA:
            return replace(found, device=torch.cuda.get_device_name(), threads=0)
        return found

    def prepare(self, job: Job) -> Session:
        keep_freed_memory()
        forward, images = self.loaded(job)
        with self._running():
            forward(images)
            if isinstance(self.clock, ReportedClock):
                self._pool = self._pool or self._torch().cuda.graph_pool_handle()
                return Session(GraphRun(forward, images, self.clock, self._pool))

        def run(repeats: int) -> None:
            with self._running():
                for _ in range(repeats):
                    forward(images)

        return Session(run)

    def settings(self, samples: int) -> Settings:
        """Samples of 20 ms on a CPU: what Python does around the operators varies more than what they do."""
        if self.compute_unit == CPU:
            return Settings(samples, min_sample_ms=20.0)
        return Settings(samples, min_sample_ms=2.0, runs_together=True)

    def profile(self, job: Job, repeats: int) -> tuple[OperatorTime, ...]:
        """By `torch.profiler`, the time of each operator that the module calls: in the calling thread on a CPU, of its
        kernels on a GPU. Its type is the one within it that takes longest, as `aten::mkldnn_convolution`.
        """
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it tells on stderr that there is no GPU
        from torch.profiler import ProfilerActivity, profile

        on_gpu = self.compute_unit == CUDA
        forward, images = self.loaded(job, profiled=True)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with self._running():
            for _ in range(WARM_UP):
                forward(images)
            with profile(activities=activities, record_shapes=True) as profiler:
                for _ in range(repeats):
                    forward(images)
        return operator_times(profiler.events(), repeats, on_gpu)

    def _torch(self) -> Any:
        """torch, if it can do what is asked for."""
        torch = require("torch", "pip install torch")
        if self.compute_unit == CUDA and not torch.cuda.is_available():
            raise UserError("compute unit is 'cuda', but torch finds no GPU here; --compute-unit cpu needs none")
        if self.precision not in (able := PRECISIONS[self.compute_unit]):
            raise UserError(
                f"precision is {self.precision!r}; {self.name} on {self.compute_unit} has {', '.join(able)}"
            )
        return torch

    def loaded(self, job: Job, profiled: bool = False) -> tuple[Forward, Tensor]:
        """What to call, and noise to call it with."""
        torch = self._torch()
        layout = torch.channels_last if self._channels_last() else torch.contiguous_format
        to: dict[str, Any] = {"device": self.compute_unit, "dtype": getattr(torch, self.precision)}
        x = torch.randn(1, *job.input_shape, generator=torch.Generator().manual_seed(0)).to(**to)
        if x.ndim == 4:  # a map, not a sequence
            x = x.contiguous(memory_format=layout)
        return self._forward(job.module().to(**to, memory_format=layout), profiled), x

    def _channels_last(self) -> bool:
        return self.compute_unit == CPU or self.precision != "float32"

    def _forward(self, module: nn.Module, profiled: bool) -> Forward:
        return module

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """With the threads asked for. It is part of every run: 3 µs of an eager network's milliseconds."""
        import torch

        before = torch.get_num_threads()
        threads = self.threads if self.compute_unit == CPU else before
        try:
            if threads != before:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                yield
        finally:
            if threads != before:
                torch.set_num_threads(before)


class CompiledTorchBackend(TorchBackend):
    """`torch.compile` by Inductor.

    Weights are not frozen: folding batch norms so made nothing faster (nano space, smallest 0.83 against 0.79 ms,
    largest 4.9 against 4.6) and took two to three times as long to compile.

    A chain of two blocks compiles in 5 to 9 s, a network of the nano space in 20 to 50 (2 busy cores), which makes some
    20 minutes for a table of this space. Inductor's cache, in TORCHINDUCTOR_CACHE_DIR or else in the temporary folder,
    spares the next one most of it: 0.7 and 8 to 15 s.
    """

    name = "torch_compiled"
    runtime = "PyTorch, compiled"

    def _torch(self) -> Any:
        torch = super()._torch()
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if not shutil.which(compiler):
            raise UserError(
                f"torch_compiled needs a C++ compiler and finds no {compiler}; install it, or name one in CXX"
            )
        if self.compute_unit == CUDA:
            require("triton", "pip install triton")
        return torch

    def _forward(self, module: nn.Module, profiled: bool) -> Forward:
        import torch

        def forward(images: Tensor) -> Tensor:
            return module(images)

        # What torch has compiled it keeps by code object, and gives up after 8 for the same one.
        own = FunctionType(forward.__code__.replace(), globals(), "forward", None, forward.__closure__)
        options: dict[str, Any] = {"cpp.enable_kernel_profile": profiled}
        if self.compute_unit == CPU:
            options["cpp.threads"] = self.threads  # is compiled in
        return torch.compile(own, dynamic=False, fullgraph=True, options=options)


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed, as other allocators do.

    Eager PyTorch allocates its activations in every run. By default glibc gives freed memory back to the system and
    asks for it again, page by page, whenever nothing else happens to lie above it on the heap: a session's time would
    depend on the sessions around it.
    """
    with contextlib.suppress(OSError, AttributeError):  # another system, another allocator
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most it takes


def keep_primitives() -> None:
    """Lets oneDNN keep the code of every session, if it has not generated any yet: it asks but once.

    It generates code for each operator and shape, and by default keeps 1024 of these, fewer than the graphs of a table
    have. Networks among them took 4 to 9 % longer than alone, and do not with all code kept.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(1 << 20))


class GraphRun:
    """A forward pass, captured as a CUDA graph; running it advances the clock by the time between two events.

    Args:
        images: the input, which stays where it is.
        pool: of memory that all graphs share, since only one runs at a time.

    Attributes:
        output: of the last run, until a graph of the same pool runs.
    """

    def __init__(self, forward: Forward, images: Tensor, clock: ReportedClock, pool: Any = None) -> None:
        import torch

        self._clock, self._reads = clock, (forward, images)  # a graph does not keep what it reads alive
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                forward(images)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self.output = forward(images)
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, repeats: int) -> None:
        self._start.record()
        for _ in range(repeats):
            self._graph.replay()
        self._end.record()
        self._end.synchronize()
        self._clock.elapsed_ns += round(1e6 * self._start.elapsed_time(self._end))


def operator_times(events: Sequence[Any], repeats: int, on_gpu: bool) -> tuple[OperatorTime, ...]:
    """Means over the faster half of the runs that the profiler's events are of, each of which calls the same operators.

    In the other runs more of the time may be that of other work.
    """
    total = "device_time_total" if on_gpu else "cpu_time_total"
    calls = sorted((event for event in events if _is_call(event)), key=lambda event: event.time_range.start)
    runs = np.array(calls, dtype=object).reshape(repeats, -1)
    times_us = np.array([[getattr(call, total) for call in run] for run in runs])
    faster = np.argsort(times_us.sum(axis=1), kind="stable")[: (repeats + 1) // 2]
    return tuple(
        OperatorTime(
            name=same[0].name,
            type=_mostly(_main_operator(call, f"self_{total}") for call in same),
            ms=float(us) / 1e3,
            detail=_detail(same[0]),
        )
        for same, us in zip(runs.T, times_us[faster].mean(axis=0), strict=True)
        if us > 0
    )


def _main_operator(call: Any, own_time: str) -> str:
    """The operator within a call, or itself, that takes longest on its own."""
    return str(max(_within(call), key=lambda event: getattr(event, own_time)).name)


def _mostly(names: Iterable[str]) -> str:
    return Counter(names).most_common(1)[0][0]


def _is_operator(event: Any) -> bool:
    """Neither a kernel, which is part of the operator that launches it, nor what torch.compile wraps around them."""
    return event.device_type.name == "CPU" and ("::" in event.name or "_fused_" in event.name)


def _is_call(event: Any) -> bool:
    """Whether no other operator has called this one."""
    if not _is_operator(event):
        return False
    while event := event.cpu_parent:
        if _is_operator(event):
            return False
    return True


def _within(event: Any) -> Iterator[Any]:
    yield event
    for child in event.cpu_children:
        yield from _within(child)


def _detail(call: Any) -> str:
    """What kind of convolution it is, from the shapes of its images and weights."""
    tensors = [shape for shape in call.input_shapes or () if len(shape) == 4]
    if "conv" not in call.name or len(tensors) < 2:
        return ""
    images, weights = tensors[:2]
    if weights[1] != images[1]:
        return "depthwise" if weights[1] == 1 else "grouped"
    return "pointwise" if weights[2:] == [1, 1] else "dense"
