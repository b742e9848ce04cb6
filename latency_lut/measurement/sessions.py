"""Jobs measured on a backend, with progress, and without losing what a killed measurement had taken."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from tqdm import tqdm

from latency_lut.backends.base import Backend, Job, Session
from latency_lut.backends.protocol import Measurement, Sample, Settings, measure
from latency_lut.measurement.journal import Journal
from search_spaces import UserError
from search_spaces.command import reason
from search_spaces.command.forecast import Forecast


def prepare_all(jobs: Mapping[str, Job], backend: Backend) -> dict[str, Session]:
    """A session of each job. UserError if the runtime cannot run one of them."""
    forecast = Forecast(f"loading {len(jobs)} graphs", sum(map(_parts, jobs.values())))
    sessions = {}
    for name, job in tqdm(jobs.items(), desc="loading graphs", disable=None, leave=False):
        with naming(backend, name):
            sessions[name] = backend.prepare(job)
        forecast.update(_parts(job))
    return sessions


@contextlib.contextmanager
def naming(backend: Backend, name: str) -> Iterator[None]:
    """Of errors of the runtime makes a UserError that names the job; they have no common base class."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        what = f"{backend.name} cannot run {name}: {type(error).__name__}: {reason(error)}"
        raise UserError(f"{what}; give another --backend, or a space without it") from error


def _parts(job: Job) -> int:
    """What the time to load it goes with."""
    return max(1, len(job.blocks))


def measure_sessions(
    sessions: Mapping[str, Session], backend: Backend, settings: Settings, journal: Journal | None = None
) -> Measurement:
    """Times the sessions, interleaved; samples that the journal holds are not taken again, new ones are added to it."""
    runs = {name: session.run for name, session in sessions.items()}
    taken = journal.samples if journal else {}
    done = sum(sample.clean for samples in taken.values() for sample in samples)
    forecast = Forecast(
        f"timing {len(runs)} graphs, each {settings.samples} times", len(runs) * settings.samples - done
    )
    with tqdm(total=len(runs) * settings.samples, initial=done, desc="samples", disable=None, leave=False) as progress:

        def on_visit(name: str, samples: list[Sample]) -> None:
            if journal:
                journal.append(name, samples)
            progress.update(clean := sum(sample.clean for sample in samples))
            forecast.update(clean)

        with _no_garbage_collection():
            return measure(runs, settings, backend.clock, seed=done, taken=taken, on_visit=on_visit)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """As `timeit`: a collection takes longer than many a run, and the longer the more sessions there are."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def now() -> str:
    """The time of a measurement: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
