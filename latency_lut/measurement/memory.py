"""How much memory a model takes: in a process of its own, where nothing else counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from latency_lut.backends.base import FileBackend
from latency_lut.backends.registry import make_backend
from latency_lut.measurement.interpreter import ROOT

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CODE = "import sys; from latency_lut.measurement.memory import answer; answer(*sys.argv[1:])"


def peak_memory(path: Path, backend: FileBackend) -> int | None:
    """Bytes of memory that loading a file and running it once add to a process that has its runtime, at their highest.

    What the runtime itself takes does not count, nor what of a mapped file is not read.

    Returns:
        None where the system does not tell: Linux does.
    """
    if not RESET.exists():
        return None
    arguments = (backend.name, backend.precision, str(backend.describe().threads), str(path.absolute()))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return None if done.returncode else int(json.loads(done.stdout.splitlines()[-1]))


def answer(name: str, precision: str, threads: str, path: str) -> None:
    """Prints the bytes: what the process of `peak_memory` does."""
    backend = make_backend(name, int(threads), precision)
    assert isinstance(backend, FileBackend)
    backend.describe()  # imports the runtime
    before = _resident("VmRSS")
    RESET.write_text("5")  # the highest from here on
    backend.load(Path(path)).run(1)
    print(json.dumps(_resident("VmHWM") - before))


def _resident(field: str) -> int:
    """Bytes of a line such as "VmHWM:    1234 kB"."""
    return 1024 * next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))
