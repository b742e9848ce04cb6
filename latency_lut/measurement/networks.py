"""A shipped file, timed under the table's protocol."""

from __future__ import annotations

from pathlib import Path

from latency_lut.backends.base import FileBackend
from latency_lut.backends.protocol import ANCHOR
from latency_lut.measurement.sessions import measure_sessions
from search_spaces import UserError
from search_spaces.command import reason

DEFAULT_SAMPLES = 25


def measure_file(path: Path, backend: FileBackend, samples: int = DEFAULT_SAMPLES) -> tuple[float, float, bool]:
    """(minimum, median) time in ms of one run of a file with one input, batch 1, and whether the machine was busy
    meanwhile.

    Raises:
        UserError: the file is missing or the runtime cannot load it.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; give a model")
    try:
        session = backend.load(path)
    except UserError:
        raise
    except Exception as error:  # runtimes' errors have no base class
        raise UserError(f"{path} is no model that {backend.name} can load: {reason(error)}") from None
    measured = measure_sessions({ANCHOR: session}, backend, backend.settings(samples))  # alone, it is its own anchor
    timing = measured.timings[ANCHOR]
    return timing.min_ms, timing.median_ms, measured.busy
