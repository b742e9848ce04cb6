"""A Mac and an iPhone with a Core ML of which we say what it does.

Replaced are only the two ends that Linux lacks, so that all of coremltools' own Python runs: its native library
(`coremltools/libcoremlpython`, after coremlpython/CoreMLPython.mm of coremltools 9.0) and Apple's `devicectl` with the
app that it talks to (after modelrunner/ModelRunner/ModelService.swift). A model is known by its description.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import types
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
        patch.setattr("latency_lut.coreml_backend.on_mac", lambda: True)
        patch.setattr("latency_lut.coreml_backend.platform.mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
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


@dataclass
class FakePhone:
    """An iPhone, its coremltools app, and the `devicectl` by which a Mac reaches them.

    Args:
        folder: the app's files.
        core: its Core ML.
        disconnects_at: number of the prediction before which it is gone; None: never.
        late: how often an answer is asked for before it is there.
    """

    folder: Path
    core: FakeCoreML = field(default_factory=FakeCoreML)
    name: str = "Anna's iPhone"
    disconnects_at: int | None = None
    late: int = 1
    installs: bool = True
    app: str = ""
    dtypes: set[str] = field(default_factory=set)
    connected: bool = True
    running: bool = False
    _models: dict[str, Any] = field(default_factory=dict)
    _asked: dict[str, int] = field(default_factory=dict)

    def devices(self) -> dict[str, Any]:
        def device(name: str, state: str, kind: str, product: str) -> dict[str, Any]:
            return {
                "identifier": f"id-{product}",
                "deviceProperties": {"name": name, "osVersionNumber": "18.5", "osBuildUpdate": "22F76"},
                "hardwareProperties": {
                    "deviceType": kind,
                    "udid": f"udid-{product}",
                    "productType": product,
                    "marketingName": "iPhone 15 Pro",
                },
                "connectionProperties": {"tunnelState": state},
            }

        state = "connected" if self.connected else "disconnected"
        mine = device(self.name, state, "iPhone", "iPhone16,1")
        return {"result": {"devices": [mine, device("Old iPad", "unavailable", "iPad", "iPad7,1")]}}

    def list_devices(self, command: list[str], **_: Any) -> None:
        """For `subprocess.run`."""
        assert command[:5] == ["xcrun", "devicectl", "list", "devices", "--json-output"]
        Path(command[5]).write_text(json.dumps(self.devices()))

    def run_command(self, command: str) -> dict[str, Any]:
        """For `_DeviceCtl._run_command`."""
        words = command.split()
        if "list" in words:
            return self.devices()
        if not self.connected:
            raise self.error(1, b"ERROR: The device is not connected.\n")
        if "install" in words:
            if not self.installs:
                raise self.error(3002, b"\nFailed to install the app: no valid signature.\n")
            return {"result": {"installedApplications": [{"bundleID": self.app, "databaseUUID": "1"}]}}
        assert words[:3] == ["devicectl", "device", "copy"], command
        assert f"--domain-identifier={self.app}" in words
        source, target = (words[words.index(flag) + 1] for flag in ("--source", "--destination"))
        if words[3] == "to":
            self.receive(Path(source), self.folder / target)
        else:
            self.answer(self.folder / source, Path(target))
        return {"result": {"source": source, "destination": target}}

    def run_command_async(self, command: str) -> Any:
        """For `_DeviceCtl._run_command_async`: the console of the app, as a process."""
        assert command.startswith("xcrun devicectl device process launch --console") and command.endswith(self.app)
        self.running = True
        phone = self

        class Console:
            def poll(self) -> int | None:
                return None if phone.connected and phone.running else 1

            def terminate(self) -> None:
                phone.running = False

        return Console()

    def build(self, device: Any, build_directory: Path, credentials: Any, clean: bool = False) -> Path:
        """For `_ModelRunnerAppBuilder.build`, which Xcode does."""
        self.app = credentials.bundle_identifier or "com.coremltools.modelrunnerd"
        return build_directory / device.udid / "ModelRunner.app"

    def error(self, code: int, message: bytes) -> Exception:
        from coremltools.models.ml_program.experimental.remote_device import _DeviceCtlError

        return _DeviceCtlError(message, code)

    def receive(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
            return
        shutil.copy(source, target)
        if target.name == "message.json":
            self.serve(json.loads(target.read_text()), target.parents[3])

    def answer(self, source: Path, target: Path) -> None:
        key = str(source)
        self._asked[key] = self._asked.get(key, 0) + 1
        if not source.exists() or (source.name == "message.json" and self._asked[key] <= self.late):
            raise self.error(1, b"ERROR: The file does not exist.\n")
        shutil.copy(source, target)

    def serve(self, message: dict[str, Any], root: Path) -> None:
        """Answers as the app does."""
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        folder = root / "responses" / message["id"]
        folder.mkdir(parents=True)
        name = message.get("resource")
        resource = root / "requests" / "resources" / message["id"] / name if name else None
        try:
            method = getattr(self, f"_{message['method'].removeprefix('MLModelService.').lower()}")
            answer["result"] = {"modelID": message["params"]["modelID"], **method(message["params"], resource)}
            if message["method"] == "MLModelService.Prediction":
                (folder / "outputs.bin").write_bytes(bytes(4))
                answer["resource"] = "outputs.bin"
        except RuntimeError as error:
            answer["error"] = {"code": -32603, "message": str(error)}
        if self.connected:
            (folder / "message.json").write_text(json.dumps(answer))

    def _load(self, params: dict[str, Any], resource: Path) -> dict[str, Any]:
        spec = read_compiled(resource)
        self.core.load(describe(spec), params["computeUnits"])
        self._models[params["modelID"]] = spec
        return {"duration": 5_000_000, "isCached": False}

    def _unload(self, params: dict[str, Any], resource: None) -> dict[str, Any]:
        self.core.unload(describe(self._models.pop(params["modelID"])))
        return {}

    def _prediction(self, params: dict[str, Any], resource: Path) -> dict[str, Any]:
        if len(self.core.durations_ns) == self.disconnects_at:
            self.connected = False
            return {}
        spec = self._models[params["modelID"]]
        (source,), (target,) = spec.description.input, spec.description.output
        tensor = params["inputs"][source.name]
        assert tensor["shape"] == list(source.type.multiArrayType.shape)
        assert resource.stat().st_size == tensor["storage"]["size"]
        self.dtypes.add(tensor["dataType"])
        storage = {"offset": 0, "size": 4}
        output = {"shape": [1], "strides": [1], "dataType": "Float32", "storage": storage}
        return {
            "outputs": {target.name: output},
            "duration": self.core.predict(describe(spec)),
            "resource": "outputs.bin",
        }

    def _computeplan(self, params: dict[str, Any], resource: None) -> dict[str, Any]:
        if not self.core.has_plans:
            raise RuntimeError("Unsupported request: MLComputePlan is not supported on this platform.")
        infos = []
        for op in operations(self._models[params["modelID"]]):
            name, cost = self.core.placement(op.type) if op.type != "const" else (None, None)
            if name is None:
                continue
            device = {DEVICES[name][0]: {"totalCoreCount": 16} if name == "ne" else {}}
            path = [
                {"program": {}},
                {"programFunction": {"data": {"name": "main"}}},
                {"programBlock": {"data": {"index": -1}}},
                {"programOperation": {"data": {"outputName": op.outputs[0].name}}},
            ]
            info: dict[str, Any] = {"deviceUsage": {"preferred": device, "supported": [device]}}
            infos.append({**info, "path": {"components": path}, **({} if cost is None else {"estimatedCost": cost})})
        return {"infos": infos}


@contextmanager
def connected(phone: FakePhone) -> Iterator[FakePhone]:
    """A Mac to which the phone is connected."""
    from coremltools.models.ml_program.experimental import remote_device

    impatient = types.ModuleType("asyncio")
    impatient.__dict__.update(vars(asyncio), sleep=lambda _seconds: asyncio.sleep(0))
    with mac(FakeCoreML()) as patch:
        patch.setattr(remote_device, "_asyncio", impatient)
        patch.setattr(remote_device._DeviceCtl, "_run_command", staticmethod(phone.run_command))
        patch.setattr(remote_device._DeviceCtl, "_run_command_async", staticmethod(phone.run_command_async))
        patch.setattr(remote_device._ModelRunnerAppBuilder, "build", phone.build)
        patch.setattr(remote_device._shutil, "which", lambda name: f"/usr/bin/{name}")
        patch.setattr("latency_lut.coreml_device.subprocess.run", phone.list_devices)
        yield phone
