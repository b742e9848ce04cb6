"""Whole networks timed under the table's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from latency_lut.onnxruntime_backend import OnnxRuntimeBackend
from latency_lut.protocol import Run, Settings, SystemClock, Timing, measure
from search_spaces import Arch, SearchSpace, UserError

DEFAULT_SAMPLES = 25


def measure_networks(
    space: SearchSpace, archs: Sequence[Arch], threads: int = 1, samples: int = DEFAULT_SAMPLES
) -> list[Timing]:
    """Times of the networks `space.build(arch)` with random weights, on ONNX Runtime, interleaved with each other."""
    backend = OnnxRuntimeBackend(threads)
    models = [backend.export_network(space, arch) for arch in archs]
    return _measure({str(i): backend.load(model) for i, model in enumerate(models)}, samples)


def measure_onnx(path: Path, threads: int = 1, samples: int = DEFAULT_SAMPLES) -> tuple[float, float]:
    """(minimum, median) time in ms of one run of an ONNX file with one input, batch 1.

    Raises:
        UserError: the file is missing or ONNX Runtime cannot load it.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; give an ONNX model")
    try:
        run = OnnxRuntimeBackend(threads).load_file(path)
    except Exception as error:  # onnxruntime's errors have no public base class
        raise UserError(f"{path} is no ONNX model that ONNX Runtime can load: {str(error).splitlines()[0]}") from None
    (timing,) = _measure({"": run}, samples)
    return timing.min_ms, timing.median_ms


def _measure(runs: dict[str, Run], samples: int) -> list[Timing]:
    with tqdm(total=samples, desc="measuring rounds", disable=None, leave=False) as progress:
        measured = measure(runs, Settings(samples), SystemClock(), on_round=lambda _: progress.update() and None)
    return [measured.timings[name] for name in runs]
