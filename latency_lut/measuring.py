"""Jobs measured on a backend, with progress, and without losing what a killed measurement had taken."""

from __future__ import annotations

from collections.abc import Mapping

from tqdm import tqdm

from latency_lut.backend import Backend, Job, Session
from latency_lut.journal import Journal
from latency_lut.protocol import Measurement, Sample, Settings, Timing, measure


def prepare_all(jobs: Mapping[str, Job], backend: Backend) -> dict[str, Session]:
    """A session of each job."""
    named = tqdm(jobs.items(), desc="loading graphs", disable=None, leave=False)
    return {name: backend.prepare(job) for name, job in named}


def measure_sessions(
    sessions: Mapping[str, Session], backend: Backend, settings: Settings, journal: Journal | None = None
) -> Measurement:
    """Times the sessions, interleaved; samples that the journal holds are not taken again, new ones are added to it."""
    runs = {name: session.run for name, session in sessions.items()}
    taken = journal.samples if journal else {}
    done = sum(sample.clean for samples in taken.values() for sample in samples)
    with tqdm(total=len(runs) * settings.samples, initial=done, desc="samples", disable=None, leave=False) as progress:

        def on_visit(name: str, samples: list[Sample]) -> None:
            if journal:
                journal.append(name, samples)
            progress.update(sum(sample.clean for sample in samples))

        return measure(runs, settings, backend.clock, seed=done, taken=taken, on_visit=on_visit)


def measure_jobs(jobs: Mapping[str, Job], backend: Backend, settings: Settings | None = None) -> dict[str, Timing]:
    """Times of the jobs, all interleaved, by name."""
    return measure_sessions(prepare_all(jobs, backend), backend, settings or backend.settings(25)).timings
