"""The one list of runtimes, and the flags by which every command of this package names one of them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from latency_lut.backends.android.adb import PREFIX
from latency_lut.backends.android.backend import AndroidBackend
from latency_lut.backends.android.programs import PROGRAMS
from latency_lut.backends.base import Backend, FileBackend
from search_spaces import UserError
from search_spaces.command import Flags, flag

CPU = "cpu"  # the compute unit whose number of threads can be chosen


@dataclass(frozen=True)
class Kind:
    """A backend that can be made.

    Args:
        module, cls: where its class is.
        units, precisions: what it can be asked for, the default first; not every unit has every precision.
        takes_device: whether it reaches other devices than this machine by itself. Those of `PROGRAMS` reach Android's.
        tunes: whether it searches for faster kernels, for a time that can be chosen.
    """

    module: str
    cls: str
    units: tuple[str, ...]
    precisions: tuple[str, ...]
    takes_device: bool = False
    tunes: bool = False


_COREML_UNITS = ("all", "cpu_only", "cpu_and_gpu", "cpu_and_ne")
BACKENDS = {
    "onnxruntime": Kind("onnxruntime", "OnnxRuntimeBackend", (CPU,), ("float32", "int8")),
    "openvino": Kind("openvino", "OpenVinoBackend", (CPU,), ("float32", "bfloat16", "float16")),
    "torch": Kind("pytorch", "TorchBackend", (CPU, "cuda"), ("float32", "bfloat16", "float16")),
    "torch_compiled": Kind("pytorch", "CompiledTorchBackend", (CPU, "cuda"), ("float32", "bfloat16", "float16")),
    "executorch": Kind("executorch", "ExecuTorchBackend", (CPU,), ("float32", "int8")),
    "litert": Kind("litert", "LiteRtBackend", (CPU,), ("float32", "int8")),
    "tvm": Kind("tvm", "TvmBackend", (CPU,), ("float32",)),
    "tvm_tuned": Kind("tvm", "TunedTvmBackend", (CPU,), ("float32",), tunes=True),
    "coreml": Kind("coreml", "CoreMLBackend", _COREML_UNITS, ("float16", "float32"), takes_device=True),
}


def make_backend(
    name: str,
    threads: int | None = None,
    precision: str | None = None,
    compute_unit: str | None = None,
    device: str | None = None,
    tuning_s: int | None = None,
    benchmark_binary: str | None = None,
    cores: str | None = None,
) -> Backend:
    """A backend by name; None stands for its default. Whether it runs here is found when it is used.

    Args:
        device: another than this machine: a name, or adb:SERIAL for an Android device, where `benchmark_binary` is run
            on `cores`.

    Raises:
        UserError: an unknown name, or something that this backend does not know.
    """
    kind = BACKENDS[_known("--backend", name, tuple(BACKENDS))]
    unit = _known(f"--compute-unit of {name}", compute_unit or kind.units[0], kind.units)
    chosen: dict[str, Any] = {
        "precision": _known(f"--precision of {name}", precision or kind.precisions[0], kind.precisions),
        "compute_unit": unit,
        "threads": threads or 1 if unit == CPU else 0,
    }
    if threads is not None and unit != CPU:
        raise UserError(f"--threads is {threads}, but {name} on {unit} chooses its threads itself; leave --threads out")
    on_android = device is not None and device.startswith(PREFIX)
    if device is not None and not on_android:
        chosen["device"] = _checked_device(name, device)
    if tuning_s is not None:
        if not kind.tunes:
            tuners = ", ".join(name for name, kind in BACKENDS.items() if kind.tunes)
            raise UserError(f"--tuning-s is {tuning_s}, but {name} tunes no kernels; it is for {tuners}")
        chosen["tuning_s"] = tuning_s
    backend: Backend = getattr(importlib.import_module(f"latency_lut.backends.{kind.module}"), kind.cls)(**chosen)
    if device is not None and on_android:
        return _on_android(backend, chosen["threads"], device.removeprefix(PREFIX), benchmark_binary, cores)
    if benchmark_binary is not None or cores is not None:
        raise UserError("--benchmark-binary and --cores are for an Android device; give it as --device adb:SERIAL")
    return backend


def _checked_device(name: str, device: str) -> str:
    """UserError unless the runtime reaches devices by name itself."""
    if BACKENDS[name].takes_device:
        return device
    if name in PROGRAMS:
        raise UserError(f"--device is {device!r}; {name} reaches Android devices, as {PREFIX}SERIAL")
    devices = ", ".join(name for name, kind in BACKENDS.items() if kind.takes_device)
    raise UserError(f"--device is {device!r}, but {name} measures this machine only; it is for {devices}")


def _on_android(backend: Backend, threads: int, serial: str, binary: str | None, cores: str | None) -> Backend:
    if backend.name not in PROGRAMS or not isinstance(backend, FileBackend):
        raise UserError(
            f"--device is {PREFIX + serial!r}, but {backend.name} is not measured on Android devices; "
            f"these are: {', '.join(PROGRAMS)}"
        )
    return AndroidBackend(backend, threads, serial, binary, cores)


def _known(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UserError(f"{what} is {value!r}; choose from {', '.join(allowed)}")
    return value


@dataclass(frozen=True, kw_only=True)
class DeviceFlags(Flags):
    """The flags that name another device than this machine."""

    device: str | None = flag(
        None, "a device connected to this machine: by name (Core ML), or adb:SERIAL (Android; default: this machine)"
    )
    benchmark_binary: str | None = flag(None, "the runtime's benchmark program, built for the Android device")
    cores: str | None = flag(None, "mask of the Android device's cores to run on, as taskset has it, e.g. f0")


@dataclass(frozen=True)
class Target(DeviceFlags):
    """The flags that name a runtime and a device; commands inherit them."""

    backend: str = flag("onnxruntime", "runtime; python -m latency_lut.backends lists them")
    compute_unit: str | None = flag(None, "what the runtime computes on (default: the runtime's first)")
    precision: str | None = flag(None, "number format (default: the runtime's first)")
    threads: int | None = flag(None, "threads that run one network on a CPU (default: 1)", minimum=1, maximum=1024)
    tuning_s: int | None = flag(None, "seconds of tuning kernels a graph (tvm_tuned; default: 600)", minimum=0)
    python: str | None = flag(None, "interpreter of another environment to measure in, where the runtime is installed")

    def make_backend(self) -> Backend:
        return make_backend(
            self.backend,
            self.threads,
            self.precision,
            self.compute_unit,
            self.device,
            self.tuning_s,
            self.benchmark_binary,
            self.cores,
        )

    def slug(self, backend: Backend) -> str:
        """`Runtime.slug` of the backend that these flags make: with the device where they name one."""
        return backend.describe().slug(backend.name, elsewhere=self.device is not None)
