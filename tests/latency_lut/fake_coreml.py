"""A Mac with a Core ML of which we say what it does.

Replaced is only what Linux lacks, so that all of coremltools' own Python runs: its native library
(`coremltools/libcoremlpython`, after coremlpython/CoreMLPython.mm of coremltools 9.0). A model is known by its
description.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

NATIVE = "coremltools.libcoremlpython"
PLANS = "coremltools.models.ml_program.experimental.compute_plan_utils"
DEVICES = {
    "ne": ("neuralEngine", "MLNeuralEngineComputeDevice"),
    "gpu": ("gpu", "MLGPUComputeDevice"),
    "cpu": ("cpu", "MLCPUComputeDevice"),
}


@dataclass
class FakeCoreML:
    """Core ML on one machine.

    Args:
        duration_ns: of a prediction, by the model's description and the number of predictions so far.
        refusal: why it will not "compile", "load" or "predict" a model; None if it will.
        placement: preferred device of an operator type and its estimated cost; None of either where it does not tell.
        has_plans: False like macOS 14.3.
        log: what was done to which model.
    """

    duration_ns: Callable[[str, int], int] = lambda _model, n: 100_000 + n
    refusal: Callable[[str, str], str | None] = lambda _doing, _model: None
    placement: Callable[[str], tuple[str | None, float | None]] = lambda _type: ("ne", None)
    has_plans: bool = True
    log: list[tuple[str, str]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    most_loaded: int = 0
    units: set[str] = field(default_factory=set)
    durations_ns: list[int] = field(default_factory=list)

    def refuse(self, doing: str, model: str) -> None:
        if why := self.refusal(doing, model):
            raise RuntimeError(why)

    def load(self, model: str, unit: str) -> None:
        self.refuse("load", model)
        self.log.append(("load", model))
        self.units.add(unit)
        self.loaded.append(model)
        self.most_loaded = max(self.most_loaded, len(self.loaded))

    def unload(self, model: str) -> None:
        self.log.append(("unload", model))
        self.loaded.remove(model)

    def predict(self, model: str) -> int:
        self.refuse("predict", model)
        assert model in self.loaded
        self.durations_ns.append(self.duration_ns(model, len(self.durations_ns)))
        self.log.append(("predict", model))
        return self.durations_ns[-1]


def read_compiled(path: str | Path) -> Any:
    """The specification in a compiled model of ours."""
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((Path(path) / "model.spec").read_bytes())
    return spec


def describe(spec: Any) -> str:
    return str(spec.description.metadata.shortDescription)


def operations(spec: Any) -> list[Any]:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return list(block.operations)


def model_structure(spec: Any) -> Any:
    from coremltools.models import compute_plan as plans

    def operation(op: Any) -> Any:
        outputs = [
            plans.MLModelStructureProgramNamedValueType(output.name, plans.MLModelStructureProgramValueType())
            for output in op.outputs
        ]
        return plans.MLModelStructureProgramOperation({}, op.type, outputs, [], None)

    block = plans.MLModelStructureProgramBlock([], [operation(op) for op in operations(spec)], [])
    functions = {"main": plans.MLModelStructureProgramFunction([], block)}
    return plans.MLModelStructure(None, plans.MLModelStructureProgram(functions), None)


class Device:
    pass


class NeuralEngine(Device):
    def get_total_core_count(self) -> int:
        return 16


class PlanProxy:
    core: FakeCoreML

    def __init__(self, spec: Any = None) -> None:
        if spec is not None:
            self.model_structure = model_structure(spec)

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Any:
        from coremltools.models import compute_device, compute_plan

        name, _ = self.core.placement(operation.operator_name) if operation.operator_name != "const" else (None, None)
        if name is None:
            return None
        device = getattr(compute_device, DEVICES[name][1])(NeuralEngine() if name == "ne" else Device())
        return compute_plan.MLComputePlanDeviceUsage(device, [device])

    def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any:
        from coremltools.models.compute_plan import MLComputePlanCost

        _, cost = self.core.placement(operation.operator_name)
        return None if cost is None else MLComputePlanCost(cost)


class ModelProxy:
    """Raises RuntimeError like the native one."""

    core: FakeCoreML
    plan: type[PlanProxy]

    def __init__(
        self, path: str, compute_units: str, function_name: str, hints: dict[str, str], asset: Any = None
    ) -> None:
        assert path.endswith(".mlmodelc"), "a package would be compiled again"
        assert (function_name, hints, asset) == ("", {}, None)
        self.spec = read_compiled(path)
        self.duration_ns: int | None = None
        self.model = ""
        self.core.load(describe(self.spec), compute_units)
        self.model = describe(self.spec)

    def __del__(self) -> None:
        if self.model:
            self.core.unload(self.model)

    def predict(self, data: dict[str, Any], state: Any) -> dict[str, Any]:
        (source,), (target,) = self.spec.description.input, self.spec.description.output
        assert data.keys() == {source.name} and state is None
        assert data[source.name].dtype == np.float32, "it knows no float16 arrays"
        assert data[source.name].shape == tuple(source.type.multiArrayType.shape)
        self.duration_ns = self.core.predict(self.model)
        return {target.name: np.zeros(tuple(target.type.multiArrayType.shape), np.float32)}

    def get_last_predict_duration_in_nano_seconds(self) -> int | None:
        return self.duration_ns

    @staticmethod
    def maximum_supported_specification_version() -> int:
        return 10

    @classmethod
    def compileModel(cls, path: str) -> str:  # noqa: N802
        from coremltools.models.utils import load_spec

        spec = load_spec(path)
        cls.core.refuse("compile", describe(spec))
        cls.core.log.append(("compile", describe(spec)))
        folder = Path(tempfile.mkdtemp()) / "model.mlmodelc"
        folder.mkdir()
        (folder / "model.spec").write_bytes(spec.SerializeToString())
        return str(folder)

    @staticmethod
    def get_model_structure(path: str) -> Any:
        return model_structure(read_compiled(path))

    @classmethod
    def get_compute_plan(cls, path: str, compute_units: str) -> Any:
        from coremltools.models.compute_plan import MLComputePlan

        if not cls.core.has_plans:
            raise RuntimeError("MLComputePlan is only available on macOS >= 14.4")
        return MLComputePlan(cls.plan(read_compiled(path)))


def native_library(core: FakeCoreML) -> ModuleType:
    """What coremltools' native library offers, as far as its Python uses it here."""
    plan = type("PlanProxy", (PlanProxy,), {"core": core})
    module = ModuleType(NATIVE)
    module.__dict__.update(
        _MLModelProxy=type("ModelProxy", (ModelProxy,), {"core": core, "plan": plan}),
        _MLComputePlanProxy=plan,
        _MLCPUComputeDeviceProxy=Device,
        _MLGPUComputeDeviceProxy=Device,
        _MLNeuralEngineComputeDeviceProxy=NeuralEngine,
    )
    return module


@contextmanager
def mac(core: FakeCoreML) -> Iterator[pytest.MonkeyPatch]:
    """This machine is a Mac with macOS 15.5."""
    import coremltools.models as models
    from coremltools.models import _compiled_model, compute_device, compute_plan, model, utils

    library = native_library(core)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latency_lut.backends.coreml.on_mac", lambda: True)
        patch.setattr("latency_lut.backends.coreml.platform.mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
        patch.setitem(sys.modules, NATIVE, library)
        patch.delitem(sys.modules, PLANS, raising=False)  # it makes classes of the library's when imported
        for module in (model, _compiled_model, compute_device, compute_plan):
            for name in vars(library).keys() & vars(module).keys():
                if name.startswith("_ML"):
                    patch.setattr(module, name, getattr(library, name))
        for module in (_compiled_model, utils, model):
            patch.setattr(module, "_macos_version", lambda: (15, 5))
        assert models.CompiledMLModel is _compiled_model.CompiledMLModel
        try:
            yield patch
        finally:
            sys.modules.pop(PLANS, None)
