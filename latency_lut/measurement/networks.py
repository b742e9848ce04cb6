"""A shipped file, timed under the table's protocol."""

from __future__ import annotations

from pathlib import Path

from latency_lut.backends.onnxruntime import OnnxRuntimeBackend
from latency_lut.backends.protocol import ANCHOR
from latency_lut.measurement.sessions import measure_sessions
from search_spaces import UserError

DEFAULT_SAMPLES = 25


def measure_onnx(path: Path, threads: int = 1, samples: int = DEFAULT_SAMPLES) -> tuple[float, float, bool]:
    """(minimum, median) time in ms of one run of an ONNX file with one input, batch 1, and whether the machine was busy
    meanwhile.

    Raises:
        UserError: the file is missing or ONNX Runtime cannot load it.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; give an ONNX model")
    backend = OnnxRuntimeBackend(threads)
    try:
        session = backend.load(path)
    except Exception as error:  # onnxruntime's errors have no public base class
        raise UserError(f"{path} is no ONNX model that ONNX Runtime can load: {str(error).splitlines()[0]}") from None
    measured = measure_sessions({ANCHOR: session}, backend, backend.settings(samples))  # alone, it is its own anchor
    timing = measured.timings[ANCHOR]
    return timing.min_ms, timing.median_ms, measured.busy
