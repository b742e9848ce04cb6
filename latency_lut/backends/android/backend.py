"""Models on a connected Android device, run and timed there by the benchmark program of their runtime.

Nothing here has run on a device: tests replace `adb` and the programs by scripts that answer as their documentation and
sources say.

A session's model lies on the device, and each call of `run` is a process there, which loads it, warms up and runs it so
many times; the clock is advanced by what the program reports of these runs. So a sample is the mean of the runs of one
process, and the fastest sample counts. A process takes long to start beside the runs of a block, hence few samples of
many runs. The process of the visit's warm-up brings the cores to their speed. Every model is run once before the
measurement, so that one which the device refuses is found before hours of measuring.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from pathlib import Path
from typing import Any

from latency_lut.backends.android.adb import FOLDER, AndroidDevice
from latency_lut.backends.android.programs import PROGRAMS
from latency_lut.backends.base import FileBackend, Job, Runtime, Session
from latency_lut.backends.protocol import ReportedClock, Settings
from search_spaces import UserError

VISITS, SAMPLES, SAMPLE_MS = 3, 12, 100


class AndroidBackend(FileBackend):
    """
    Args:
        files: the runtime's own backend, which writes the models; it need not run here.
        threads: that run one network.
        serial: of the device; "" for the only one.
        binary: the runtime's benchmark program, built for the device.
        cores: hexadecimal mask of the cores to run on, as taskset has it; None for all.

    Raises:
        UserError: no such program, or no such mask.
    """

    def __init__(
        self, files: FileBackend, threads: int, serial: str, binary: str | None, cores: str | None = None
    ) -> None:
        self.name, self.precision, self.suffix = files.name, files.precision, files.suffix
        self.threads, self.cores = threads, _checked_mask(cores)
        self.clock: ReportedClock = ReportedClock()
        self._files, self._serial = files, serial
        self._program = PROGRAMS[files.name]
        self._binary = self._checked_program(binary)
        self._numbers = itertools.count()

    def export(self, job: Job, path: Path) -> None:
        self._files.export(job, path)

    def load(self, path: Path) -> Session:
        """Sends the model and runs it once.

        Raises:
            DeviceGone: the device does not answer any more.
            UserError: the program on it refuses the model.
        """
        model = f"{next(self._numbers):04d}{self.suffix}"
        self._device.push(path, model)

        def run(repeats: int) -> None:
            self.clock.elapsed_ns += round(1e6 * repeats * self._mean_ms(model, path.name, repeats))

        run(1)
        return Session(run)

    def settings(self, samples: int) -> Settings:
        """At most 12 samples of at least 100 ms, in 3 visits.

        A graph takes 20 processes: one a sample, a warm-up a visit, the first run, and four that tell how many runs a
        sample takes.
        """
        samples = min(samples, SAMPLES)
        return Settings(samples, SAMPLE_MS, samples_per_visit=max(1, samples // VISITS), runs_together=True)

    def describe(self) -> Runtime:
        device, system = self._device.described
        return Runtime(
            device=f"{device}, cores {self.cores}" if self.cores else device,
            os=system,
            runtime=self._program.runtime,
            runtime_version=f"{self._program.name} {self._digest}",
            compute_unit="cpu",
            precision=self.precision,
            threads=self.threads,
        )

    def facts(self) -> dict[str, Any]:
        """The device's serial number."""
        return {"serial": self._device.serial}

    def _mean_ms(self, model: str, what: str, runs: int) -> float:
        line = self._program.line(model, self.threads, runs, self.cores)
        said = self._device.shell(f"run {what}", f"cd {FOLDER} || exit; {line}")
        if not (ms := self._program.mean_ms(said, runs)):
            raise UserError(f"{self._binary} says no time of {what}; {self._program.silent}")
        return ms

    @functools.cached_property
    def _device(self) -> AndroidDevice:
        """With the program in its place."""
        device = AndroidDevice(self._serial)
        device.push(self._binary, self._program.name)
        device.shell("make the program executable", f"chmod +x {FOLDER}/{self._program.name}")
        return device

    @functools.cached_property
    def _digest(self) -> str:
        """Which build of the program it is; it does not tell its version."""
        return hashlib.sha256(self._binary.read_bytes()).hexdigest()[:8]

    def _checked_program(self, binary: str | None) -> Path:
        path = Path(binary or "").expanduser()
        if not path.is_file():
            what = f"--benchmark-binary is {binary!r}, which is no file" if binary else "--benchmark-binary is missing"
            raise UserError(f"{what}; give {self._program.runtime}'s {self._program.name}, built for the device")
        return path


def _checked_mask(cores: str | None) -> str:
    if cores is not None and not (re.fullmatch("[0-9a-fA-F]{1,16}", cores) and int(cores, 16)):
        raise UserError(f"--cores is {cores!r}; give a hexadecimal mask, as taskset has it: f0 for cores 4 to 7")
    return cores or ""
