"""A Core ML model: what can be done with it wherever it is, one on this Mac, and which devices its operators prefer."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from latency_lut.backends.base import require
from search_spaces import UserError

INSTALL = "pip install coremltools"
DEVICE_NAMES = {
    "MLNeuralEngineComputeDevice": "ne",
    "MLGPUComputeDevice": "gpu",
    "MLCPUComputeDevice": "cpu",
}


class Model(Protocol):
    """A model that can be loaded again and again. All raise UserError, with what the model is, if Core ML refuses."""

    def load(self) -> None:
        """Loads it on its device."""

    def unload(self) -> None:
        """Takes it off the device."""

    def predict(self, images: np.ndarray) -> int:
        """One prediction; its time in ns as Core ML reports it."""

    def compute_plan(self) -> Any:
        """coremltools' MLComputePlan of the loaded model; None where the system does not tell."""


class LocalModel:
    """A model on this Mac.

    Args:
        package: the .mlpackage; the compiled model takes its place.
        what: names it in errors.
        source: its input.
    """

    def __init__(self, package: Path, what: str, source: str, unit: Any) -> None:
        self._compiled, self._what, self._input, self._unit = str(package.with_suffix(".mlmodelc")), what, source, unit
        self._model: Any = None
        with self._errors("compile"):
            require("coremltools", INSTALL).models.utils.compile_model(str(package), self._compiled)
        shutil.rmtree(package)

    def load(self) -> None:
        with self._errors("load"):
            models = require("coremltools", INSTALL).models
            self._model = models.CompiledMLModel(self._compiled, compute_units=self._unit)

    def unload(self) -> None:
        self._model = None  # the last reference: coremltools' native object lets go of Core ML's model

    def predict(self, images: np.ndarray) -> int:
        with self._errors("run"):
            self._model.predict({self._input: images})
            # A public property has it in MLModel only, which would compile the package again at each load.
            duration = self._model._proxy.get_last_predict_duration_in_nano_seconds()
        return int(duration)

    def compute_plan(self) -> Any:
        from coremltools.models.compute_plan import MLComputePlan

        with contextlib.suppress(RuntimeError, ValueError):  # before macOS 14.4
            return MLComputePlan.load_from_path(self._compiled, compute_units=self._unit)

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # coremltools raises bare ones
            raise UserError(
                f"Core ML cannot {doing} {self._what} on {self._unit.name.lower()}: {first_line(error)}"
            ) from error


def device_shares(plan: Any) -> dict[str, float]:
    """Share of a program's operators by the device that Core ML prefers, weighted by its estimate of their cost.

    Each counts the same if it estimates none; empty if it prefers nothing.
    """
    if plan is None or plan.model_structure.program is None:
        return {}
    counts: dict[str, float] = defaultdict(float)
    costs: dict[str, float] = defaultdict(float)
    for operator in plan.model_structure.program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operator)
        if usage is None:  # a constant
            continue
        name = DEVICE_NAMES[type(usage.preferred_compute_device).__name__]
        counts[name] += 1
        cost = plan.get_estimated_cost_for_mlprogram_operation(operator)
        costs[name] += cost.weight if cost else 0.0
    weights = costs if sum(costs.values()) > 0 else counts
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def temporary_folder(owner: object) -> Path:
    """A folder that goes when its owner does."""
    folder = Path(tempfile.mkdtemp(prefix="coreml-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; devicectl's errors hold bytes."""
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
