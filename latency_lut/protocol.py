"""How anything is timed: shuffled rounds over all graphs, the fastest run of every sample, and only samples during which
the thread did not wait.

Blocks measured one after another drift apart with the machine's state; in interleaved rounds every graph meets every
state. What disturbs a run that waits for nothing, as other guests of the host, comes and goes within milliseconds: the
fastest of a sample's runs is disturbed least, where their mean holds all of it. Nothing here knows a runtime: a graph is
a function that runs it a number of times.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import Protocol

Run = Callable[[int], None]  # runs a graph so many times, one after another
MAX_WAIT_SHARE = 0.02  # of a sample's time in the run queue; above it the sample is not clean
MAX_TAKEN = 3  # on a busy machine a measurement ends after this many times the samples it needs
ANCHOR = "anchor"  # the graph that is the same in every measurement
MAX_MS = 60_000.0  # no block takes a minute
MAX_SPREAD = 1.25  # median over minimum of the anchor; above it the machine was busy or throttled


class Clock(Protocol):
    def now_ns(self) -> int:
        """Monotonic time."""

    def wait_ns(self) -> int | None:
        """Time that this process has been ready to run but waited for a core; None where the system cannot tell."""


class SystemClock:
    """The clock of this machine; waiting is known on Linux only."""

    def now_ns(self) -> int:
        return time.perf_counter_ns()

    def wait_ns(self) -> int | None:
        waits = []
        for task in Path("/proc/self/task").glob("*/schedstat"):
            try:
                waits.append(int(task.read_text().split()[1]))
            except (OSError, IndexError, ValueError):  # the thread has just ended
                continue
        return sum(waits) if waits else None


@dataclass(frozen=True)
class Settings:
    """
    Args:
        samples: clean samples wanted of every graph.
        min_sample_ms: a sample repeats its graph for at least this long; 0: a sample is one run.
        samples_per_visit: that are taken of a graph in a row, after one warm-up, where turning to another is slow.
        runs_together: a sample is the mean of its runs, timed together, for a device to which runs are queued; else
            each is timed alone, and the sample is the fastest.
    """

    samples: int = 40
    min_sample_ms: float = 4.0
    samples_per_visit: int = 1
    runs_together: bool = False


@dataclass(frozen=True)
class Sample:
    """Time of one run, and the share of the whole sample, its warm-up included, spent waiting (None: unknown)."""

    ms: float
    wait_share: float | None

    @property
    def clean(self) -> bool:
        return self.wait_share is None or self.wait_share <= MAX_WAIT_SHARE


def check_times(name: str, *times_ms: float) -> None:
    """ValueError on a time that no measurement can give."""
    if wrong := [ms for ms in times_ms if not 0 < ms <= MAX_MS]:
        raise ValueError(f"{name} is {wrong[0]}; a measured time lies above 0, to {MAX_MS:.0f}")


@dataclass(frozen=True)
class Timing:
    """The samples of one graph that count, in order of time: as many as wanted, those with the least waiting."""

    samples_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        """ValueError without samples, or on one that took no time."""
        if not self.samples_ms:
            raise ValueError("samples_ms is empty")
        check_times("samples_ms", *self.samples_ms)

    @property
    def min_ms(self) -> float:
        return min(self.samples_ms)

    @property
    def median_ms(self) -> float:
        return median(self.samples_ms)


@dataclass(frozen=True)
class Measurement:
    """
    Args:
        timings: by graph.
        unclean_share: of all samples taken, those disturbed by other work; None where the system does not tell.
        short: how many graphs have fewer clean samples than wanted.
    """

    timings: dict[str, Timing]
    unclean_share: float | None
    short: int

    @property
    def busy(self) -> bool:
        """Whether other work, or heat, disturbed the measurement so much that its figures deserve no trust.

        Waiting is unknown on some systems, and what other guests of its host take a virtual machine never sees; there
        the anchor tells, for between a quiet machine's fastest and usual runs lies little.
        """
        anchor = self.timings.get(ANCHOR)
        uneven = anchor is not None and anchor.median_ms > MAX_SPREAD * anchor.min_ms
        return self.short > 0 or (self.unclean_share or 0.0) > 0.1 or uneven


def measure(
    runs: Mapping[str, Run],
    settings: Settings,
    clock: Clock,
    *,
    seed: int = 0,
    taken: Mapping[str, Sequence[Sample]] | None = None,
    on_visit: Callable[[str, list[Sample]], None] = lambda _name, _samples: None,
) -> Measurement:
    """Times all graphs in shuffled rounds until each has its clean samples.

    Args:
        seed: of the order within the rounds.
        taken: samples of an earlier, interrupted measurement.
        on_visit: called with each graph's new samples as they are taken.
    """
    samples = {name: [_seen(s) for s in (taken or {}).get(name, ())] for name in runs}
    order = random.Random(seed)
    repeats: dict[str, int] = {}

    def wanted(name: str) -> bool:
        clean = sum(s.clean for s in samples[name])
        return clean < settings.samples and len(samples[name]) < settings.samples * MAX_TAKEN

    while pending := [name for name in runs if wanted(name)]:
        order.shuffle(pending)
        for name in pending:
            if name not in repeats:
                repeats[name] = _repeats(runs[name], settings.min_sample_ms, clock)
            fresh = [_seen(s) for s in _visit(runs[name], repeats[name], settings, clock)]
            samples[name] += fresh
            on_visit(name, fresh)
    return _summarize(samples, settings)


def _seen(sample: Sample) -> Sample:
    """A process that was stopped meanwhile, or its whole machine, has waited for no core."""
    return sample if sample.ms <= MAX_MS else replace(sample, wait_share=1.0)


def _repeats(run: Run, min_sample_ms: float, clock: Clock) -> int:
    if min_sample_ms == 0:
        return 1
    run(1)  # the first run allocates
    fastest_ms = min(_time_ns(run, 1, clock) for _ in range(3)) / 1e6
    return ceil(min_sample_ms / max(fastest_ms, 1e-3))


def _visit(run: Run, repeats: int, settings: Settings, clock: Clock) -> list[Sample]:
    """The first run in a visit brings the graph back into the caches, from which other graphs have driven it."""
    warm_ups = [repeats if settings.runs_together else 1] + [0] * (settings.samples_per_visit - 1)
    return [_sample(run, repeats, settings.runs_together, clock, warm_up) for warm_up in warm_ups]


def _sample(run: Run, repeats: int, together: bool, clock: Clock, warm_up: int) -> Sample:
    """Waiting is asked for before the warm-up: the system's answer, too, drives the graph out of the caches, and takes
    milliseconds for a runtime of a hundred threads.
    """
    wait, begin = clock.wait_ns(), clock.now_ns()
    if warm_up:
        run(warm_up)
    ns = _time_ns(run, repeats, clock) / repeats if together else min(_time_ns(run, 1, clock) for _ in range(repeats))
    end, wait_after = clock.now_ns(), clock.wait_ns()
    share = None if wait is None or wait_after is None else max(0, wait_after - wait) / (end - begin)
    return Sample(ns / 1e6, share)


def _time_ns(run: Run, repeats: int, clock: Clock) -> int:
    start = clock.now_ns()
    run(repeats)
    return clock.now_ns() - start


def _summarize(samples: Mapping[str, Sequence[Sample]], settings: Settings) -> Measurement:
    timings, short = {}, 0
    for name, all_samples in samples.items():
        by_wait = sorted(range(len(all_samples)), key=lambda i: all_samples[i].wait_share or 0.0)
        quietest = [all_samples[i] for i in sorted(by_wait[: settings.samples])]
        timings[name] = Timing(tuple(s.ms for s in quietest))
        short += sum(s.clean for s in quietest) < settings.samples
    flat = [s for row in samples.values() for s in row]
    known = all(s.wait_share is not None for s in flat)
    unclean_share = sum(not s.clean for s in flat) / len(flat) if known else None
    return Measurement(timings, unclean_share, short)
