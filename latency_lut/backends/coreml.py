"""Core ML: ML programs written on any machine and run on Macs, iPhones and iPads, batch 1.

Nothing here has run on Apple's hardware: up to the native library of coremltools 9.0 and to `devicectl` everything is
tested, those two are replaced by `tests/latency_lut/fake_coreml.py`.

Time is what Core ML's own prediction call takes, as coremltools reports it, without Python around it. On a Mac,
coremltools hands over float32 arrays, which Core ML rounds within that time where the model takes float16; on a phone
the input is float16 already. Either is the same for all graphs of one input shape, so differences and slopes lose it.

One model is loaded at a time: with three, Neural Engines have been seen to fail. Each visit of a graph loads it, in its
compiled form, whose path Core ML caches the device's own compilation by. Each model is loaded and run once before the
measurement, so that one which the device refuses is found before hours of measuring.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import platform
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latency_lut.backends.base import FileBackend, Job, Runtime, Session, require
from latency_lut.backends.coreml_model import INSTALL, LocalModel, Model, device_shares, temporary_folder
from latency_lut.backends.machine import cpu_model, os_name
from latency_lut.backends.protocol import ReportedClock, Settings
from search_spaces import UserError
from search_spaces.command import quiet

if TYPE_CHECKING:
    import torch
    from torch import nn

DEPLOYMENT_TARGET = (
    "iOS17"  # and macOS 14; float16 inputs need iOS16; for older ones compute plans are said to be empty
)
INPUT, OUTPUT = "x", "y"
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
CONVERSION_DATE = "com.github.apple.coremltools.conversion_date"
PARTS = uuid.UUID("5b2a7d0e-7a6f-4bb5-9a25-6a1f1c1a5d10")  # namespace of the packages' part identifiers
VISITS = 5
DEVICE_VISITS, DEVICE_SAMPLES = 3, 12


class CoreMLBackend(FileBackend):
    """
    Args:
        threads: 0, Core ML decides.
        precision: of weights, activations, input and output: "float16" or "float32" (which no Neural Engine does).
        compute_unit: what Core ML may use: "all", "cpu_only", "cpu_and_gpu" or "cpu_and_ne". It falls back to the CPU
            silently; `Session.devices` has the shares.
        device: name of a connected iPhone or iPad; None for this Mac.
    """

    name = "coreml"
    suffix = ".mlpackage"

    def __init__(
        self, threads: int = 0, precision: str = "float16", compute_unit: str = "all", device: str | None = None
    ) -> None:
        self.threads, self.precision, self.compute_unit, self.device = threads, precision, compute_unit, device
        self.clock: ReportedClock = ReportedClock()
        self._loaded: Model | None = None
        self._numbers = itertools.count()

    def export(self, job: Job, path: Path) -> None:
        """Writes an .mlpackage: one ML program, described by its blocks' keys.

        Its input is "x" (1, C, H, W), its output "y"; a detector and parts of its head have more: "y1", "y2", …
        """
        with quiet():
            ct = require("coremltools", INSTALL)
            import torch

            shape = (1, *job.input_shape)
            dtype = np.dtype(self.precision).type
            module, count = _making(job.module(), images := torch.zeros(shape))
            package = ct.convert(
                torch.jit.trace(module, images, check_trace=False),
                convert_to="mlprogram",
                inputs=[ct.TensorType(name=INPUT, shape=shape, dtype=dtype)],
                outputs=[ct.TensorType(name=f"{OUTPUT}{i or ''}", dtype=dtype) for i in range(count)],
                compute_precision=ct.precision[self.precision.upper()],
                minimum_deployment_target=ct.target[DEPLOYMENT_TARGET],
                skip_model_load=True,
            )
            keys = dict.fromkeys(block.key for block in job.blocks)
            package.short_description = "whole network" if job.arch else " + ".join(keys)
            package.save(str(path))
            _make_reproducible(path)

    def load(self, path: Path) -> Session:
        """A session of an .mlpackage with one input of fixed shape, which is only read."""
        _check_system()
        copy = self._folder / f"{next(self._numbers):04d}.mlpackage"
        shutil.copytree(path, copy)  # coremltools writes the manifest of every package that it opens
        spec = _read_specification(copy)
        (source,) = spec.description.input
        what = f"{path.name} ({spec.description.metadata.shortDescription or 'not described'})"
        float16 = source.type.multiArrayType.dataType == source.type.multiArrayType.FLOAT16
        images = np.random.default_rng(0).standard_normal(tuple(source.type.multiArrayType.shape), dtype=np.float32)
        model: Model
        if self.device is None:
            model = LocalModel(copy, what, source.name, self._unit)
        else:
            model = self._remote.model(copy, what, source.name, self._unit)
            images = images.astype(np.float16) if float16 else images
        self._use(model)
        model.predict(images)
        devices = device_shares(model.compute_plan())

        def run(repeats: int) -> None:
            self._use(model)
            for _ in range(repeats):
                self.clock.elapsed_ns += model.predict(images)

        return Session(run, devices)

    def settings(self, samples: int) -> Settings:
        """At least 5 visits of each graph on a Mac; on a connected device 3, and at most 12 samples of one prediction.

        coremltools reaches a device by copying files with `devicectl`, and looks for an answer every 0.5 s: a
        prediction takes 5 copies and one such wait, loading 4 and one, unloading or the compute plan 3 and one. A
        visit, with its warm-up, is 5 predictions, so a graph takes 3 · (5 · 5 + 4 + 3) = 96 copies and 21 waits, and
        15 and 4 before the measurement. If a copy takes 0.3 s, which is a guess, the 130 graphs of the nano space's
        table take 130 · (111 · 0.3 s + 25 · 0.5 s) = 99 minutes.
        """
        if self.device is None:
            return Settings(samples, samples_per_visit=max(1, samples // VISITS))
        samples = min(samples, DEVICE_SAMPLES)
        return Settings(samples, min_sample_ms=0, samples_per_visit=max(1, samples // DEVICE_VISITS))

    def describe(self) -> Runtime:
        _check_system()
        with quiet():
            version = require("coremltools", INSTALL).__version__
        if self.device is None:
            device, system, system_version = f"{_mac_model()} {cpu_model()}".strip(), os_name(), platform.mac_ver()[0]
        else:
            device, system, system_version = self._remote.describe()
        return Runtime(
            device=device,
            os=system,
            runtime="Core ML",
            runtime_version=f"{system_version} (coremltools {version})",
            compute_unit=self.compute_unit,
            precision=self.precision,
            threads=self.threads,
        )

    def facts(self) -> dict[str, Any]:
        """The connected device's identifier."""
        return {} if self.device is None else {"udid": self._remote.udid}

    def _use(self, model: Model) -> None:
        if self._loaded is model:
            return
        previous, self._loaded = self._loaded, None
        if previous:
            previous.unload()
        model.load()
        self._loaded = model

    @functools.cached_property
    def _folder(self) -> Path:
        """Holds the models as long as this backend lives."""
        return temporary_folder(self)

    @functools.cached_property
    def _remote(self) -> Any:
        from latency_lut.backends.coreml_device import RemoteDevice

        assert self.device is not None
        return RemoteDevice(self.device)

    @property
    def _unit(self) -> Any:
        return require("coremltools", INSTALL).ComputeUnit[self.compute_unit.upper()]


def _making(module: nn.Module, images: torch.Tensor) -> tuple[nn.Module, int]:
    """The module, giving what it makes of images, and how many outputs that are.

    Parts of a head also hand on what they were given, which no program has as both input and output.
    """
    from torch import nn

    class Making(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Any) -> Any:
            return tuple(y for y in self.module(x) if y is not x)

    if not isinstance(module(images), tuple):
        return module, 1
    return (made := Making()), len(made(images))


def _check_system() -> None:
    if not on_mac():
        raise UserError(
            "Core ML runs on macOS: write the models here with python -m latency_lut.export --backend coreml (for a "
            "validation with --validate TABLE), and measure them there with python -m latency_lut.measure"
        )


def on_mac() -> bool:
    return platform.system() == "Darwin"


def _read_specification(package: Path) -> Any:
    with quiet():
        require("coremltools", INSTALL)
        from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((package / SPECIFICATION).read_bytes())
    return spec


def _make_reproducible(package: Path) -> None:
    """coremltools dates a model, writes its maps in any order and names the package's parts by random UUIDs."""
    spec = _read_specification(package)
    spec.description.metadata.userDefined.pop(CONVERSION_DATE, None)
    (package / SPECIFICATION).write_bytes(spec.SerializeToString(deterministic=True))

    manifest = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
    names = {old: str(uuid.uuid5(PARTS, part["path"])) for old, part in manifest["itemInfoEntries"].items()}
    parts = sorted((names[old], part) for old, part in manifest["itemInfoEntries"].items())
    manifest |= {"itemInfoEntries": dict(parts), "rootModelIdentifier": names[manifest["rootModelIdentifier"]]}
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4) + "\n", encoding="utf-8")


def _mac_model() -> str:
    """E.g. "Mac14,2"."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["/usr/sbin/sysctl", "-n", "hw.model"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return ""
