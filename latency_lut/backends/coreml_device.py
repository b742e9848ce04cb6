"""A connected iPhone or iPad, through coremltools' experimental device session.

coremltools builds and signs an app of its own (ModelRunner) with Xcode, installs it with `devicectl`, and talks to it
by copying files. Signing needs the identifier of an Apple developer team, in the environment variable DEVELOPMENT_TEAM.
The app keeps a copy of every model it was sent, so delete it from the device in the end. coremltools asks 20 times for
an answer, 0.5 s apart: a model that takes much longer to load is not told from a device that has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from latency_lut.backends.base import DeviceGone
from latency_lut.backends.coreml_model import first_line, temporary_folder
from search_spaces import UserError
from search_spaces.command import quiet

T = TypeVar("T")
TEAM = "DEVELOPMENT_TEAM"
SYSTEMS = {"iphone": "iOS", "ipad": "iPadOS"}


class RemoteDevice:
    """A connected device, by name. The app is built, installed and started when the first model is loaded.

    Raises:
        UserError: no such device is connected, with those that are; several of its name are; Xcode's tools are missing.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._device = _find(name)
        self._folder = temporary_folder(self)
        self._runner = asyncio.Runner()
        self._prepared: list[Any] = []
        self.loaded: list[Any] = []
        weakref.finalize(self, _close, self._runner, self._prepared, self.loaded)

    @property
    def udid(self) -> str:
        """The device's own identifier: others may have its name."""
        return str(self._device.udid)

    def describe(self) -> tuple[str, str, str]:
        """Model, e.g. "iPhone16,1 iPhone 15 Pro"; system with its version; the version alone."""
        kind, version = self._device.type.value, self._device.os_version
        return _product(self._device.udid) or kind, f"{SYSTEMS.get(kind, kind)} {version}", version

    def model(self, package: Path, what: str, source: str, unit: Any) -> RemoteModel:
        """A model of the .mlpackage, which must stay in its place."""
        if not self._prepared:
            self._prepared.append(self._start())
        return RemoteModel(self, self._prepared[0], package, what, source, unit)

    @property
    def _session(self) -> Any:
        return self._prepared[0].session

    def _start(self) -> Any:
        from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials

        team = os.environ.get(TEAM, "")
        app = f"com.coremltools.modelrunnerd.{team.lower()}" if team else None  # an identifier belongs to one team
        credentials = AppSigningCredentials(development_team=team, bundle_identifier=app)
        try:
            return self._runner.run(
                self._device.prepare_for_model_debugging(credentials, working_directory=self._folder)
            )
        except Exception as error:  # of Xcode, devicectl and coremltools
            remedy = (
                f"unlock it and trust this Mac, turn on its Developer Mode, and set {TEAM} to your team's identifier"
            )
            raise UserError(f"{self.name} cannot start coremltools' app: {first_line(error)}; {remedy}") from error

    def call(self, doing: str, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine returns.

        Raises:
            DeviceGone: the device does not answer any more.
            UserError: Core ML on it refuses.
        """
        try:
            with quiet(), self._transfers():
                return self._runner.run(action())
        except Exception as error:  # of devicectl, the app, Core ML and coremltools
            # Errors of devicectl carry its exit status, those of the app a negative number (JSON-RPC).
            status = getattr(error, "error_code", None)
            if not self._session.is_alive() or (hasattr(error, "error_code") and (status is None or status > 0)):
                raise DeviceGone.while_it_was_to(self.name, doing) from error
            raise UserError(f"Core ML on {self.name} cannot {doing}: {first_line(error)}") from error

    def discard_transfers(self) -> None:
        """Deletes the copies of all inputs, outputs and messages, which coremltools leaves."""
        for folder in (self._session.working_directory, self._transfer_folder):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _transfer_folder(self) -> Path:
        return self._folder / "transfers"

    @contextlib.contextmanager
    def _transfers(self) -> Iterator[None]:
        """coremltools writes the input of each prediction to a new file in the system's temporary folder."""
        self._transfer_folder.mkdir(parents=True, exist_ok=True)
        before, tempfile.tempdir = tempfile.tempdir, str(self._transfer_folder)
        try:
            yield
        finally:
            tempfile.tempdir = before


class RemoteModel:
    """A model on a connected device."""

    def __init__(self, device: RemoteDevice, prepared: Any, package: Path, what: str, source: str, unit: Any) -> None:
        self._device, self._prepared, self._package = device, prepared, package
        self._what, self._input, self._unit = what, source, unit
        self._model: Any = None

    def load(self) -> None:
        """Compiles it on this Mac and sends it."""
        from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper

        model = MLModelAsyncWrapper.from_spec_or_path(
            str(self._package), weights_dir="", compute_units=self._unit, device=self._prepared
        )
        self._device.call(f"load {self._what}", model.load)
        self._device.loaded.append(model)
        self._model = model

    def unload(self) -> None:
        self._device.call(f"unload {self._what}", self._model.unload)
        self._device.loaded.remove(self._model)
        self._device.discard_transfers()

    def predict(self, images: np.ndarray) -> int:
        self._device.call(f"run {self._what}", lambda: self._model.predict({self._input: images}))
        return int(self._model.last_predict_duration_in_nano_seconds)

    def compute_plan(self) -> Any:
        try:
            return self._device.call(f"plan {self._what}", self._model.retrieve_compute_plan)
        except UserError:  # before iOS 17.4; a device that is gone is noticed at the next call
            return None


def _find(name: str) -> Any:
    from coremltools.models.ml_program.experimental.remote_device import Device, DeviceState

    try:
        with quiet():
            devices = Device.get_devices()
    except Exception as error:  # of devicectl, or that there is none
        raise UserError(f"--device is {name!r}, but devices cannot be listed: {first_line(error)}") from error
    connected = [device for device in devices if device.state == DeviceState.CONNECTED]
    named = [device for device in connected if device.name == name]
    if len(named) == 1:
        return named[0]
    if named:
        which = ", ".join(device.udid for device in named)
        raise UserError(f"--device is {name!r}, the name of {len(named)} connected devices: {which}; connect one alone")
    names = ", ".join(repr(device.name) for device in connected) or "none"
    others = ", ".join(f"{d.name!r} is {d.state.value}" for d in devices if d not in connected)
    raise UserError(f"--device is {name!r}; connected: {names}{f' ({others})' if others else ''}")


def _product(udid: str) -> str | None:
    """What devicectl, but not coremltools, tells of a device."""
    with (
        contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, KeyError),
        tempfile.TemporaryDirectory() as folder,
    ):
        path = Path(folder) / "devices.json"
        command = ["xcrun", "devicectl", "list", "devices", "--json-output", str(path)]
        subprocess.run(command, capture_output=True, check=True)
        for device in json.loads(path.read_text(encoding="utf-8"))["result"]["devices"]:
            hardware = device["hardwareProperties"]
            if hardware.get("udid") == udid:
                return f"{hardware['productType']} {hardware.get('marketingName', '')}".strip()
    return None


def _close(runner: asyncio.Runner, prepared: list[Any], loaded: list[Any]) -> None:
    for model in loaded:  # goes with the app; coremltools would send it an unload from a destructor, by a closed loop
        model._remote_service._state = model._remote_service.State.Unloaded
    for device in prepared:
        device.session.stop()
    runner.get_loop().close()  # its own `close` would run the loop, which a finalizer must not while another one runs
