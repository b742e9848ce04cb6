"""Measured time of pruned networks: no table knows their shapes.

Whatever is compared is timed in one interleaved run, by the protocol of the tables; the time of a network is its
fastest run, as there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from latency_lut.backends.base import Backend, Job
from latency_lut.backends.protocol import ANCHOR, Measurement
from latency_lut.measurement.sessions import measure_sessions, prepare_all
from latency_lut.tables.anchor import anchor_job
from nas.pruning.selection import groups
from search_spaces.structure.base import Structure
from search_spaces.structure.costs import Costs
from search_spaces.structure.slicing import cut

MAX_TRIALS = 6  # networks measured on the way to a latency
NEAR = 0.02  # of the latency aimed at: near enough


def measure(models: Mapping[str, nn.Module], image_size: int, backend: Backend, samples: int) -> Measurement:
    """Times the models, by name, interleaved with one another and with the anchor of the tables."""
    return measure_jobs(jobs_of(models, image_size), backend, samples)


def jobs_of(models: Mapping[str, nn.Module], image_size: int) -> dict[str, Job]:
    """To be timed, by name."""
    return {name: _job(model, image_size) for name, model in models.items()}


def measure_jobs(jobs: Mapping[str, Job], backend: Backend, samples: int) -> Measurement:
    """Times the jobs, by name, interleaved with one another and with the anchor of the tables."""
    return measure_sessions(prepare_all({ANCHOR: anchor_job(), **jobs}, backend), backend, backend.settings(samples))


def measure_twice(jobs: Mapping[str, Job], backend: Backend, samples: int) -> tuple[dict[str, tuple[float, ...]], bool]:
    """The fastest run of each job in each of two sessions, all interleaved, and whether the machine was busy.

    How far the sessions are apart tells how well a time is known.
    """
    found = measure_jobs({f"{name} {n}": job for name, job in jobs.items() for n in (1, 2)}, backend, samples)
    return {name: tuple(found.timings[f"{name} {n}"].min_ms for n in (1, 2)) for name in jobs}, found.busy


def stage_times_ms(model: nn.Module, image_size: int, backend: Backend) -> dict[str, float]:
    """Time of each stage or block: of its operators, as the runtime reports them; its profiler slows each a little.

    Raises:
        UserError: the runtime does not report operators.
    """
    times: defaultdict[str, float] = defaultdict(float)
    for operator in backend.profile(_job(model, image_size), repeats=30):
        times[_stage(operator.name)] += operator.ms
    return dict(times)


def _job(model: nn.Module, image_size: int) -> Job:
    return Job((3, image_size, image_size), lambda: model)


def _stage(operator: str) -> str:
    """`blocks.3` of "/blocks/blocks.3/attn/qkv/MatMul", `head` of "/head/Gemm", else "other"."""
    found = re.match(r"/(?:\w+/)?((?:blocks|stages|layers)\.\d+)/", operator) or re.match(r"/([a-z]\w*)/", operator)
    return found[1] if found else "other"


def ms_per_mac(
    model: nn.Module, structure: Structure, costs: Costs, image_size: int, backend: Backend, samples: int
) -> dict[str, float]:
    """Of each dimension, the time that a multiply-accumulate takes which goes with its units.

    Measured by halving the dimensions of one structure and size together: alone, one would drown in noise. What shows
    no gain costs a hundredth of the mean, so that it is not removed for nothing.
    """
    number, sizes = groups(structure, "isomorphic"), structure.sizes
    alike: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for name, size in sizes.items():
        if size > 1:
            alike[number[name], size].append(name)
    halves = {
        str(i): {name: torch.arange((sizes[name] + 1) // 2) for name in names} for i, names in enumerate(alike.values())
    }
    models = {name: cut(model, structure, kept)[0] for name, kept in halves.items()}
    timings = measure({"whole": model, **models}, image_size, backend, samples).timings
    whole_ms, whole_macs = timings["whole"].min_ms, costs.macs(sizes)
    rates = dict.fromkeys(sizes, 0.0)
    for (name, kept), members in zip(halves.items(), alike.values(), strict=True):
        saved = whole_macs - costs.macs({**sizes, **{n: len(index) for n, index in kept.items()}})
        rates |= dict.fromkeys(members, (whole_ms - timings[name].min_ms) / saved)
    least = 0.01 * whole_ms / whole_macs
    return {name: max(rate, least) for name, rate in rates.items()}


@dataclass(frozen=True)
class Trial:
    """A network measured on the way to a latency: its share of the MACs and of the time."""

    macs_share: float
    latency_share: float


def reach(latency_share: float, measured: Callable[[float], float], least_share: float) -> tuple[float, list[Trial]]:
    """The share of MACs whose network takes that share of the time, and what was measured to find it.

    Each next guess is on the line through the nearest trials of either side. Where time is no line of MACs, one of them
    would remain for good; whenever it does, its distance counts half (the Illinois method).

    Args:
        measured: the share of the time that the network with that share of the MACs takes.
        least_share: of MACs, that the minima allow.

    Returns:
        the share tried whose time is the nearest from below, or `least_share` if none is fast enough: see its trial.
    """
    below, above = Trial(least_share, measured(least_share)), Trial(1.0, 1.0)
    aim = (1 - NEAR / 2) * latency_share
    best, trials, missing, excess, was_fast = below, [below], aim - below.latency_share, 1 - aim, None
    while best.latency_share < (1 - NEAR) * latency_share and len(trials) < MAX_TRIALS:
        part = min(0.95, max(0.05, missing / (missing + excess)))
        share = below.macs_share + part * (above.macs_share - below.macs_share)
        trials.append(trial := Trial(share, measured(share)))
        fast = trial.latency_share <= latency_share
        if fast:
            best = max(best, trial, key=lambda t: (t.latency_share, t.macs_share))
            below, missing = trial, aim - trial.latency_share
            excess /= 2 if was_fast is True else 1
        else:
            above, excess = trial, trial.latency_share - aim
            missing /= 2 if was_fast is False else 1
        was_fast = fast
    return best.macs_share, trials
