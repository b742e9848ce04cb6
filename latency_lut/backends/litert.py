"""LiteRT, the former TensorFlow Lite, on a CPU with its XNNPACK delegate, batch 1, float32 or int8.

Networks are converted by litert-torch as they are, with channels first: the model transposes its input to channels last
and its output back, so the convolutions between, of however many blocks, do not. `load` needs neither torch nor
litert-torch.

The interpreter is used: LiteRT's newer `CompiledModel` runs the same delegate in the same time (nano largest 0.642
against 0.646 ms on an AMD EPYC, 1 thread, ai-edge-litert 2.3) and makes an environment for each model.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from latency_lut.backends.base import FileBackend, Job, Runtime, Session, require
from latency_lut.backends.ranges import spanned
from search_spaces.command import quiet

# Of an environment that measures and exports: litert-torch, and what our own modules import there.
PACKAGES = "litert-torch==0.10.0 timm fvcore pandas markupsafe platformdirs safetensors filelock tqdm scipy"
INSTALL = (
    f"pip install {PACKAGES} in an environment of its own, with torch < 2.15, and give it as --python; "
    "to run exported models, ai-edge-litert==2.3.0 is enough"
)
SIGNATURE = "serving_default"  # which litert-torch gives to a model with one


class LiteRtBackend(FileBackend):
    """
    Args:
        threads: of each interpreter (`num_threads`).
        precision: "float32", or "int8": static quantization by AI Edge Quantizer, weights per channel.
    """

    name = "litert"
    suffix = ".tflite"

    def __init__(self, threads: int = 1, precision: str = "float32", compute_unit: str = "cpu") -> None:
        self.threads, self.precision, self.compute_unit = threads, precision, compute_unit

    def export(self, job: Job, path: Path) -> None:
        """Raises UserError if litert-torch is not installed."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # what its native code writes
        with quiet():
            require("litert_torch", INSTALL)
            if self.precision == "float32":
                _convert(job, path)
                return
            with tempfile.TemporaryDirectory() as folder:
                whole = Path(folder) / "float32.tflite"
                _convert(job, whole)
                path.write_bytes(_quantize(whole, job.calibration(), float_ends=job.float_ends))

    def load(self, path: Path) -> Session:
        """A session of any model with one input, float32 or int8.

        Raises:
            UserError: ai-edge-litert is not installed.
            ValueError: the file is no LiteRT model.
        """
        interpreter = _runtime().Interpreter(model_content=path.read_bytes(), num_threads=self.threads)
        interpreter.allocate_tensors()
        (source,) = interpreter.get_input_details()
        noise = np.random.default_rng(0).standard_normal(source["shape"], dtype=np.float32)
        int8 = source["dtype"] == np.int8  # a quantized model's input is quantized too
        interpreter.set_tensor(source["index"], np.clip(noise * 32, -128, 127).astype(np.int8) if int8 else noise)

        def run(repeats: int) -> None:
            for _ in range(repeats):
                interpreter.invoke()

        return Session(run)

    def answering(self, path: Path) -> Callable[[np.ndarray], np.ndarray]:
        runner = _runtime().Interpreter(str(path), num_threads=self.threads).get_signature_runner(SIGNATURE)
        (name,), (output,) = runner.get_input_details(), runner.get_output_details()
        return lambda images: np.asarray(runner(**{name: images})[output])

    def describe(self) -> Runtime:
        _runtime()
        return self.on_this_cpu("LiteRT", version("ai-edge-litert"))


def _runtime() -> Any:
    require("ai_edge_litert", INSTALL)
    return require("ai_edge_litert.interpreter", INSTALL)


def _convert(job: Job, path: Path) -> None:
    import litert_torch
    import torch

    litert_torch.convert(job.module(), (torch.zeros(1, *job.input_shape),)).export(str(path))


def _quantize(model: Path, images: Sequence[np.ndarray], *, float_ends: bool) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    runner = Interpreter(str(model)).get_signature_runner(SIGNATURE)
    (name,) = runner.get_input_details()
    task = quantizer.Quantizer(str(model), recipe.static_wi8_ai8())
    for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT) if float_ends else ():
        task.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    # `task.calibrate` would have moving averages of the images' extremes.
    operators, calibrator = RecipeManager(), Calibrator(str(model), num_threads=1, qsv_update_func=_gathered)
    operators.load_quantization_recipe(task.get_quantization_recipe())
    calibrator.calibrate({SIGNATURE: [{name: batch} for batch in images]}, operators)
    ranges = {tensor: _range(extremes) for tensor, extremes in calibrator.get_model_qsvs().items()}
    result = task.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _gathered(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The least and largest values of a tensor on the images until now, one after another."""
    return {end: np.concatenate([before[end], new[end]]) for end in ("min", "max")} if before else new


def _range(extremes: dict[str, Any]) -> dict[str, Any]:
    if not extremes:  # of a tensor that no image reaches
        return extremes
    shape = (1, *extremes["min"].shape[1:])
    ends = spanned(extremes["min"].ravel(), extremes["max"].ravel())
    return {end: np.full(shape, value, np.float32) for end, value in zip(("min", "max"), ends, strict=True)}
