"""An iPhone on a cable, in place of Apple's `devicectl` and of the app that coremltools talks to through it.

After coremltools/models/ml_program/experimental/remote_device.py and modelrunner/ModelRunner/ModelService.swift of
coremltools 9.0, whose Python runs as it is.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.latency_lut.fake_coreml import DEVICES, FakeCoreML, describe, mac, operations, read_compiled


@dataclass
class FakePhone:
    """An iPhone, its coremltools app, and the `devicectl` by which a Mac reaches them.

    Args:
        folder: the app's files.
        core: its Core ML.
        twin: whether another phone of that name is connected.
        disconnects_at: number of the prediction before which it is gone; None: never.
        late: how often an answer is asked for before it is there.
        console_notices: whether the app's console ends when the phone is gone, or locked.
    """

    folder: Path
    core: FakeCoreML = field(default_factory=FakeCoreML)
    name: str = "Anna's iPhone"
    twin: bool = False
    disconnects_at: int | None = None
    late: int = 1
    console_notices: bool = True
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
        twins = [device(self.name, state, "iPhone", "iPhone17,2")] if self.twin else []
        return {"result": {"devices": [mine, *twins, device("Old iPad", "unavailable", "iPad", "iPad7,1")]}}

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
                return None if phone.running and (phone.connected or not phone.console_notices) else 1

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
        patch.setattr("latency_lut.backends.coreml_device.subprocess.run", phone.list_devices)
        yield phone
