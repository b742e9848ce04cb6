"""How anything is timed: shuffled rounds over all graphs, the fastest run of each sample, no sample that had to wait.

Blocks measured one after another drift apart with the machine's state; in interleaved rounds every graph meets every
state. What disturbs a run that waits for nothing, as other guests of the host do, comes and goes within milliseconds:
the fastest of a sample's runs holds least of it, where their mean holds all. Nothing here knows a runtime: a graph is a
function that runs it a number of times.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import mean, median
from typing import Protocol

Run = Callable[[int], None]  # runs a graph so many times, one after another
MAX_WAIT_SHARE = 0.02  # of a sample's time in the run queue; above it the sample is not clean
MAX_TAKEN = 3  # on a busy machine a measurement ends after this many times the samples it needs
ANCHOR = "anchor"  # the graph that is the same in every measurement
MAX_MS = 60_000.0  # no block takes a minute
MAX_SPREAD = 1.25  # of the anchor's usual over its fastest run; above it the machine was busy or throttled
MAX_DRIFT = 0.05  # of the anchor; beyond it the device has grown slower or faster meanwhile


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


class ReportedClock:
    """The sum of the times that a runtime, or a GPU by its events, has reported of its runs; waiting is unknown."""

    def __init__(self) -> None:
        self.elapsed_ns = 0

    def now_ns(self) -> int:
        return self.elapsed_ns

    def wait_ns(self) -> int | None:
        return None


@dataclass(frozen=True)
class Settings:
    """
    Args:
        samples: clean samples wanted of every graph.
        min_sample_ms: a sample repeats its graph for at least this long; 0: a sample is one run.
        samples_per_visit: that are taken of a graph in a row, after one warm-up, where turning to another is slow.
        runs_together: a sample is the mean of its runs, timed together, for a device to which runs are queued or
            that is given them as one process; else each is timed alone, and the sample is the fastest.
    """

    samples: int = 40
    min_sample_ms: float = 4.0
    samples_per_visit: int = 1
    runs_together: bool = False

    def __post_init__(self) -> None:
        """ValueError on numbers by which nothing can be sampled."""
        for name, least in (("samples", 1), ("min_sample_ms", 0), ("samples_per_visit", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least {least}")


@dataclass(frozen=True)
class Sample:
    """
    Args:
        ms: time of its fastest run.
        wait_share: of the whole sample, its warm-up included, spent waiting, summed over threads; None: unknown.
        mean_ms: of its runs.
    """

    ms: float
    wait_share: float | None
    mean_ms: float

    @property
    def clean(self) -> bool:
        return self.wait_share is None or self.wait_share <= MAX_WAIT_SHARE


def check_times(name: str, *times_ms: float) -> None:
    """ValueError without times, or on one that no measurement can give."""
    if not times_ms:
        raise ValueError(f"{name} is empty")
    if wrong := [ms for ms in times_ms if not 0 < ms <= MAX_MS]:
        raise ValueError(f"{name} is {wrong[0]}; a measured time lies above 0, to {MAX_MS:.0f}")


def check_share(name: str, share: float | None) -> None:
    """ValueError on what is neither unknown (None) nor a share."""
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"{name} is {share}; a share lies from 0 to 1")


@dataclass(frozen=True)
class Timing:
    """The samples of one graph that count, in order of time: as many as wanted, those with the least waiting."""

    samples_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        """ValueError without samples, or on one that took no time."""
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
        anchor_spread: its usual run (the median of its samples' means) over its fastest; 1 without an anchor.
    """

    timings: dict[str, Timing]
    unclean_share: float | None
    short: int
    anchor_spread: float

    def __post_init__(self) -> None:
        """ValueError on a share that is none, or a number below the least that there can be."""
        check_share("unclean_share", self.unclean_share)
        for name, least in (("short", 0), ("anchor_spread", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least {least}")

    @property
    def anchor_drift(self) -> float:
        """Its fastest run in the last quarter of the rounds over that in the first, minus 1; 0 without an anchor.

        Of few samples, from half to half: the fewer a part has, the more its minimum varies by chance.
        """
        if ANCHOR not in self.timings:
            return 0.0
        times_ms = self.timings[ANCHOR].samples_ms
        part = max(1, len(times_ms) // (4 if len(times_ms) >= 8 else 2))
        return min(times_ms[-part:]) / min(times_ms[:part]) - 1

    @property
    def busy(self) -> bool:
        """Whether other work, or heat, disturbed the measurement so much that its figures deserve no trust.

        Waiting is unknown on some systems, and what other guests of its host take a virtual machine never sees; there
        the anchor tells, for between a quiet machine's fastest and usual runs lies little. Short graphs find quiet
        moments all the same, which hides it from their own times, but no whole network does.
        """
        uneven = self.anchor_spread > MAX_SPREAD or abs(self.anchor_drift) > MAX_DRIFT
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
    return sample if max(sample.ms, sample.mean_ms) <= MAX_MS else replace(sample, wait_share=1.0)


def _repeats(run: Run, min_sample_ms: float, clock: Clock) -> int:
    if min_sample_ms == 0:
        return 1
    run(1)  # the first run allocates
    fastest_ms = min(_time_ms(run, 1, clock) for _ in range(3))
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
    if together:
        runs_ms = [_time_ms(run, repeats, clock) / repeats]
    else:
        runs_ms = [_time_ms(run, 1, clock) for _ in range(repeats)]
    end, wait_after = clock.now_ns(), clock.wait_ns()
    share = None if wait is None or wait_after is None else max(0, wait_after - wait) / (end - begin)
    return Sample(min(runs_ms), share, mean(runs_ms))


def _time_ms(run: Run, repeats: int, clock: Clock) -> float:
    start = clock.now_ns()
    run(repeats)
    return (clock.now_ns() - start) / 1e6


def _summarize(samples: Mapping[str, Sequence[Sample]], settings: Settings) -> Measurement:
    quietest = {name: _quietest(all_samples, settings.samples) for name, all_samples in samples.items()}
    flat = [s for row in samples.values() for s in row]
    known = all(s.wait_share is not None for s in flat)
    anchor = quietest.get(ANCHOR)
    return Measurement(
        timings={name: Timing(tuple(s.ms for s in row)) for name, row in quietest.items()},
        unclean_share=sum(not s.clean for s in flat) / len(flat) if known else None,
        short=sum(sum(s.clean for s in row) < settings.samples for row in quietest.values()),
        anchor_spread=median(s.mean_ms for s in anchor) / min(s.ms for s in anchor) if anchor else 1.0,
    )


def _quietest(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Those with the least waiting, in order of time."""
    by_wait = sorted(range(len(samples)), key=lambda i: samples[i].wait_share or 0.0)
    return [samples[i] for i in sorted(by_wait[:count])]
