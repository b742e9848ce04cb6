"""OpenVINO on a CPU, batch 1.

OpenVINO reads ONNX files itself, so the files are ONNX Runtime's. `openvino.convert_model` traces the module likewise,
takes two to five times as long (nano largest 3.0 s against 0.6 s) and gives graphs that are as fast: nano largest 0.77
against 0.78 ms, largest at 224 px 79.8 against 79.0 ms; both outputs the same within 1e-8 (AMD EPYC of the Zen 4
generation, 1 thread, float32, OpenVINO 2026.4).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from latency_lut.backends.base import FileBackend, Job, OperatorTime, Runtime, Session, one_torch_thread, require
from latency_lut.backends.onnxruntime import export_onnx
from search_spaces import UserError

INSTALL = "pip install openvino"
CAPABILITIES = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16"}  # OpenVINO's names of what a CPU can do
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVinoBackend(FileBackend):
    """
    Args:
        threads: that compute one operator together (`INFERENCE_NUM_THREADS`), one on a core.
        precision: that convolutions and matrix products compute in: "float32"; "bfloat16" or "float16" where the CPU
            has instructions for it. Files are float32 in any case.
    """

    name = "openvino"
    suffix = ".onnx"

    def __init__(self, threads: int = 1, precision: str = "float32", compute_unit: str = "cpu") -> None:
        self.threads, self.precision, self.compute_unit = threads, precision, compute_unit
        self._core: Any = None

    def describe(self) -> Runtime:
        able = self._openvino().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if CAPABILITIES[self.precision] not in able:
            raise self._unable(able)
        return self.on_this_cpu("OpenVINO", require("openvino", INSTALL).__version__.partition("-")[0])

    def export(self, job: Job, path: Path) -> None:
        export_onnx(job, path)

    def load(self, path: Path) -> Session:
        """As `FileBackend.load`.

        Raises:
            UserError: this CPU computes in another precision, or has fewer cores than threads are asked for.
        """
        request = self._request(path)
        infer = request.infer
        (device,) = request.get_compiled_model().get_property("EXECUTION_DEVICES")

        def run(repeats: int) -> None:
            for _ in range(repeats):
                infer(share_outputs=True)  # or each run would copy the output to a new array

        return Session(run, {device.lower(): 1.0})

    def profile(self, job: Job, repeats: int) -> tuple[OperatorTime, ...]:
        """As `Backend.profile`; what is fused into an operator counts as part of it.

        OpenVINO counts whole microseconds of each run, rounded down: operators that take less than one are left out.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{self.suffix}"
            with one_torch_thread():
                self.export(job, path)
            request = self._request(path, PERF_COUNT=True)
        request.infer()
        first = _microseconds(request)  # has allocated, and is in every later average
        for _ in range(repeats):
            request.infer()
        details = _details(request.get_compiled_model().get_runtime_model())
        times = zip(request.get_profiling_info(), first, _microseconds(request), strict=True)
        return tuple(
            OperatorTime(
                name=info.node_name,
                type=info.node_type,
                ms=max(0.0, average * (repeats + 1) - once) / repeats / 1e3,
                detail=details.get(info.node_name, ""),
            )
            for info, once, average in times
            if info.status.name == "EXECUTED"
        )

    def _openvino(self) -> Any:
        if self._core is None:
            self._core = require("openvino", INSTALL).Core()
        return self._core

    def _request(self, path: Path, **properties: Any) -> Any:
        """An infer request with noise in place."""
        core = self._openvino()
        model = core.read_model(path.read_bytes(), b"")  # not mapped: the file may go
        compiled = core.compile_model(model, "CPU", self._properties() | properties)
        self._check(compiled)
        request = compiled.create_infer_request()
        images = request.get_input_tensor().data
        images[:] = np.random.default_rng(0).standard_normal(images.shape, dtype=np.float32)
        return request

    def _properties(self) -> dict[str, Any]:
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],  # by default bfloat16 where the CPU has it
            "ENABLE_HYPER_THREADING": False,
            # By default every model binds its threads to the same cores, for each run anew, and there they wait for
            # whatever else runs on these. On quiet cores it makes no difference: with 2 threads, 93 to 99 of 100
            # samples are undisturbed either way.
            "ENABLE_CPU_PINNING": False,
        }

    def _check(self, compiled: Any) -> None:
        """OpenVINO falls back silently to what the CPU has."""
        if compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != HINTS[self.precision]:
            raise self._unable(self._openvino().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        threads = compiled.get_property("INFERENCE_NUM_THREADS")
        if threads != self.threads:
            raise UserError(f"threads is {self.threads}, but OpenVINO uses {threads} on this CPU; ask for no more")

    def _unable(self, able: list[str]) -> UserError:
        known = ", ".join(precision for precision, capability in CAPABILITIES.items() if capability in able)
        return UserError(f"precision is {self.precision!r}; on this CPU OpenVINO computes in {known}")


def _microseconds(request: Any) -> list[int]:
    """Mean time of each operator over all runs of the request's model so far."""
    return [info.real_time.microseconds + info.real_time.seconds * 10**6 for info in request.get_profiling_info()]


def _details(model: Any) -> dict[str, str]:
    """By its name, what kind of convolution each of a compiled graph is, and which fused operators are attentions."""
    details = {}
    for op in model.get_ops():
        kind = str(op.get_rt_info()["layerType"].value)
        if kind in ("Convolution", "GroupConvolution"):
            weights = op.input(1).get_partial_shape().to_shape()  # ([groups,] outputs, inputs, height, width)
            details[op.get_friendly_name()] = _convolution(tuple(weights))
        elif kind == "Subgraph" and "MatMul" in str(op.get_rt_info()["originalLayersNames"].value):
            details[op.get_friendly_name()] = "attention"  # both products and the softmax; else it is element-wise work
    return details


def _convolution(weights: tuple[int, ...]) -> str:
    if len(weights) == 5:
        return "depthwise" if weights[1:3] == (1, 1) else "grouped"
    return "pointwise" if weights[2:] == (1, 1) else "dense"
