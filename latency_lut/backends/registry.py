"""python -m latency_lut.backends: which runtimes can be measured here, and why the others cannot.

The one list of runtimes, and the flags by which every command of this package names one of them.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latency_lut.backends.base import Backend
from latency_lut.tables.table import LatencyTable
from search_spaces import UserError
from search_spaces.command import flag, parse, run

CPU = "cpu"  # the compute unit whose number of threads can be chosen


@dataclass(frozen=True)
class Kind:
    """A backend that can be made.

    Args:
        module, cls: where its class is.
        units, precisions: what it can be asked for, the default first; not every unit has every precision.
        takes_device: whether it reaches other devices than this machine.
    """

    module: str
    cls: str
    units: tuple[str, ...]
    precisions: tuple[str, ...]
    takes_device: bool = False


_COREML_UNITS = ("all", "cpu_only", "cpu_and_gpu", "cpu_and_ne")
BACKENDS = {
    "onnxruntime": Kind("onnxruntime_backend", "OnnxRuntimeBackend", (CPU,), ("float32", "int8")),
    "openvino": Kind("openvino_backend", "OpenVinoBackend", (CPU,), ("float32", "bfloat16", "float16")),
    "torch": Kind("torch_backend", "TorchBackend", (CPU, "cuda"), ("float32", "bfloat16", "float16")),
    "torch_compiled": Kind("torch_backend", "CompiledTorchBackend", (CPU, "cuda"), ("float32", "bfloat16", "float16")),
    "executorch": Kind("executorch_backend", "ExecuTorchBackend", (CPU,), ("float32", "int8")),
    "litert": Kind("litert_backend", "LiteRtBackend", (CPU,), ("float32", "int8")),
    "coreml": Kind("coreml_backend", "CoreMLBackend", _COREML_UNITS, ("float16", "float32"), takes_device=True),
}


def make_backend(
    name: str,
    threads: int | None = None,
    precision: str | None = None,
    compute_unit: str | None = None,
    device: str | None = None,
) -> Backend:
    """A backend by name; None stands for its default. Whether it runs here is found when it is used.

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
    if device is not None:
        if not kind.takes_device:
            devices = ", ".join(name for name, kind in BACKENDS.items() if kind.takes_device)
            raise UserError(f"--device is {device!r}, but {name} measures this machine only; it is for {devices}")
        chosen["device"] = device
    backend: Backend = getattr(importlib.import_module(f"latency_lut.{kind.module}"), kind.cls)(**chosen)
    return backend


def backend_of(table: LatencyTable, device: str | None = None) -> Backend:
    """The backend that the table was measured with."""
    runtime = table.provenance.runtime
    threads = runtime.threads or None
    return make_backend(table.provenance.backend, threads, runtime.precision, runtime.compute_unit, device)


def _known(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UserError(f"{what} is {value!r}; choose from {', '.join(allowed)}")
    return value


@dataclass(frozen=True)
class Target:
    """The flags that name a runtime and a device; commands inherit them."""

    backend: str = flag("onnxruntime", "runtime; python -m latency_lut.backends lists them")
    compute_unit: str | None = flag(None, "what the runtime computes on (default: the runtime's first)")
    precision: str | None = flag(None, "number format (default: the runtime's first)")
    threads: int | None = flag(None, "threads that run one network on a CPU (default: 1)", minimum=1, maximum=1024)
    device: str | None = flag(None, "a device connected to this machine, by name (Core ML; default: this machine)")
    python: str | None = flag(None, "interpreter of another environment to measure in, where the runtime is installed")

    def make_backend(self) -> Backend:
        return make_backend(self.backend, self.threads, self.precision, self.compute_unit, self.device)


@dataclass(frozen=True)
class ListConfig:
    json: bool = flag(False, "print JSON instead of text")


def states() -> list[dict[str, Any]]:
    """For each backend and compute unit: the runtime and precisions that run here, or the reason why none does."""
    return [_state(name, unit) for name, kind in BACKENDS.items() for unit in kind.units]


def _state(name: str, unit: str) -> dict[str, Any]:
    runtimes, reasons = {}, []
    for precision in BACKENDS[name].precisions:
        try:
            runtimes[precision] = make_backend(name, precision=precision, compute_unit=unit).describe()
        except UserError as error:
            reasons.append(str(error))
    row: dict[str, Any] = {"backend": name, "compute_unit": unit, "precisions": list(runtimes)}
    if runtimes:
        return {**row, "runtime": asdict(next(iter(runtimes.values())))}
    return {**row, "why_not": reasons[0]}


def _line(row: dict[str, Any]) -> str:
    head = f"{row['backend']:15}{row['compute_unit']:12}"
    if "why_not" in row:
        return f"{head}no   {row['why_not']}"
    runtime = row["runtime"]
    precisions = ", ".join(row["precisions"])
    return f"{head}yes  {runtime['runtime']} {runtime['runtime_version']} on {runtime['device']}: {precisions}"


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(ListConfig, argv, "python -m latency_lut.backends", "Runtimes that can be measured here.")
    rows = states()
    print(json.dumps(rows, indent=1) if config.json else "\n".join(map(_line, rows)))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
