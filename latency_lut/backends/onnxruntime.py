"""ONNX Runtime on a CPU, batch 1, float32 or int8 by ONNX Runtime's own quantizer.

The tracing exporter is used (`dynamo=False`): 15 ms for a block instead of 0.9 s, and the graphs are the same after
ONNX Runtime's optimization (nano largest 244 nodes, 0.890 against 0.897 ms; largest at 224 px 867 nodes, 86.5 against
86.4 ms on an AMD EPYC of the Zen 4 generation, 1 thread, onnxruntime 1.31).
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latency_lut.backends.base import FileBackend, Job, OperatorTime, Runtime, Session, one_torch_thread, require
from latency_lut.backends.ranges import spanned
from search_spaces.command import quiet

LEAST, LARGEST = "_ReduceMin", "_ReduceMax"  # outputs that ONNX Runtime's calibrator adds to a model, after a tensor
WARM_UP = 3  # profiled runs that do not count

INSTALL = "pip install onnxruntime"


class OnnxRuntimeBackend(FileBackend):
    """
    Args:
        threads: that compute one operator together (`intra_op_num_threads`).
        precision: "float32", or "int8": static quantization to QDQ form, weights per channel.
    """

    name = "onnxruntime"
    suffix = ".onnx"

    def __init__(self, threads: int = 1, precision: str = "float32", compute_unit: str = "cpu") -> None:
        self.threads, self.precision, self.compute_unit = threads, precision, compute_unit

    def export(self, job: Job, path: Path) -> None:
        if self.precision == "float32":
            export_onnx(job, path)
            return
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "float32.onnx"
            export_onnx(job, whole)
            quantize_onnx(whole, path, job.calibration())

    def load(self, path: Path) -> Session:
        """A session of any ONNX file with one input; dimensions left open in the file are 1.

        Raises:
            onnxruntime's errors for a file that is no ONNX model.
        """
        onnxruntime = _onnxruntime()
        options = session_options(self.threads)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        binding, images = bind_input(session)

        def run(repeats: int) -> None:
            assert images.size  # the binding holds a bare pointer into it
            for _ in range(repeats):
                session.run_with_iobinding(binding)

        return Session(run, _provider_shares(session))

    def profile(self, job: Job, repeats: int) -> tuple[OperatorTime, ...]:
        """By ONNX Runtime's own profiler.

        It counts whole microseconds, rounded down, and what it takes it to note the shapes of an operator's tensors,
        2 to 4 µs, is in the operator's time.
        """
        onnxruntime = _onnxruntime()
        options = session_options(self.threads)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{self.suffix}"
            with one_torch_thread():
                self.export(job, path)
            options.profile_file_prefix = str(Path(folder) / "profile")
            options.optimized_model_filepath = str(optimized := Path(folder) / "optimized.onnx")
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            binding, _images = bind_input(session)
            for _ in range(WARM_UP + repeats):
                session.run_with_iobinding(binding)
            events = json.loads(Path(session.end_profiling()).read_text())
            return _operator_times(events, repeats, _convolutions(optimized))

    def describe(self) -> Runtime:
        return self.on_this_cpu("ONNX Runtime", _onnxruntime().__version__)


def export_onnx(job: Job, path: Path) -> None:
    import torch

    module = job.module()
    whole = module.forward
    module.forward = lambda x: whole(x)  # the exporter would make tensors of the defaults of other arguments
    with quiet():  # on the exporter's age, and on shapes that are constants here
        torch.onnx.export(module, (torch.zeros(1, *job.input_shape),), path, dynamo=False)


def quantize_onnx(source: Path, target: Path, images: Sequence[np.ndarray], keep_float: Sequence[str] = ()) -> None:
    """Writes an int8 file of a float32 one, by `onnxruntime.quantization` after its own shape inference.

    Args:
        images: to find the ranges of activations on, as `spanned` has them, each a batch of 1 as the network takes it.
        keep_float: names of nodes that are not quantized.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import save_tensors_data
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet(), tempfile.TemporaryDirectory() as folder:  # it advises at length on what has been done already
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        save_tensors_data(_ranges(prepared, images), ranges := Path(folder) / "ranges.json")
        quantize_static(
            prepared,
            target,
            calibration_cache_path=ranges,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Where a CPU has no VNNI (AVX2 and older), two products of 8 bits overflow the 16 that they are added in:
            # EfficientNet-Lite0 lost 2 to 5 points of accuracy there, with weights of 7 bits 0.3 to 0.6.
            reduce_range=True,
            nodes_to_exclude=list(keep_float),
        )


def _ranges(model: Path, images: Sequence[np.ndarray]) -> Any:
    """Of all tensors, from the extremes on each image, which ONNX Runtime's calibrator makes the model tell."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator
    from onnxruntime.quantization.calibrate import TensorsData

    telling = str(model.with_name("extremes.onnx"))
    session = create_calibrator(model, augmented_model_path=telling).infer_session
    tensors = [o.name.removesuffix(LEAST) for o in session.get_outputs() if o.name.endswith(LEAST)]
    asked = [tensor + end for tensor in tensors for end in (LEAST, LARGEST)]
    found = np.array([session.run(asked, {session.get_inputs()[0].name: image}) for image in images], dtype=np.float32)
    extremes = found.reshape(len(images), len(tensors), 2)
    of = {t: spanned(extremes[:, i, 0], extremes[:, i, 1]) for i, t in enumerate(tensors)}
    return TensorsData(
        CalibrationMethod.MinMax, {t: tuple(np.array([end], np.float32) for end in ends) for t, ends in of.items()}
    )


def _onnxruntime() -> Any:
    return require("onnxruntime", INSTALL)


def session_options(threads: int) -> Any:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The workers of a session would go on spinning after its run and take the cores of the next session: with 2 threads
    # four of five samples were disturbed and networks took twice their time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _provider_shares(session: Any) -> dict[str, float]:
    """Share of the operators by execution provider, "cpu"; empty where this version does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name.removesuffix("ExecutionProvider").lower()] += len(part.get_nodes())
    return {name: count / counts.total() for name, count in counts.items()}


def bind_input(session: Any) -> tuple[Any, np.ndarray]:
    """A binding with noise in place, and the noise, which must outlive it."""
    (source,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in source.shape]
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input(source.name, images)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return binding, images


def _operator_times(events: list[dict[str, Any]], repeats: int, details: Mapping[str, str]) -> tuple[OperatorTime, ...]:
    """Means over the faster half of the last runs: in the others, more of the time may be that of other work."""
    suffix = "_kernel_time"
    kernels: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(suffix):
            kernels.setdefault(event["args"]["node_index"], []).append(event)
    durations_us = np.array([[event["dur"] for event in runs[-repeats:]] for runs in kernels.values()])
    faster = np.argsort(durations_us.sum(axis=0), kind="stable")[: (repeats + 1) // 2]
    times_ms = durations_us[:, faster].mean(axis=1) / 1e3
    result = []
    for (event, *_), ms in zip(kernels.values(), times_ms, strict=True):
        name = event["name"].removesuffix(suffix)
        result.append(OperatorTime(name, event["args"]["op_name"], float(ms), details.get(name, "")))
    return tuple(result)


def _convolutions(path: Path) -> dict[str, str]:
    """By the name of each convolution of an ONNX file whose weights are in it: which kind of one it is."""
    import onnx

    graph = onnx.load(path).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    details = {}
    for node in graph.node:
        if "Conv" in node.op_type:
            shape = shapes.get(node.input[3 if node.op_type == "QLinearConv" else 1])
            if shape is None:  # computed: by the network itself, or from int8
                continue
            _outputs, inputs, *kernel = shape
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            depthwise = groups > 1 and inputs == 1  # of each group
            details[node.name] = "depthwise" if depthwise else "pointwise" if set(kernel) == {1} else "dense"
    return details
