"""What was profiled, as text and as JSON: time by kind of operator, and what a reader may conclude from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from latency_lut.backends.base import Job, OperatorTime, Runtime
from latency_lut.backends.operator_kinds import KINDS, MEMORY_BOUND, OTHER, operator_kind
from search_spaces.command import align

SLOWEST = 10  # operators that are listed


@dataclass(frozen=True)
class Varied:
    """What differs between the networks of a study.

    Args:
        kind: of the blocks that they have fewer and fewer of, as "attention" or "depthwise + pointwise".
        blocks: how many of them this network has.
        random: not one of those that differ in nothing else.
    """

    kind: str
    blocks: int
    random: bool


@dataclass(frozen=True)
class Network:
    """What is profiled.

    Args:
        arch: as JSON, for a network of a space.
        varied: for a network of a study.
    """

    name: str
    job: Job
    arch: dict[str, Any] | None = None
    varied: Varied | None = None


@dataclass(frozen=True)
class KindTime:
    """Time of all operators of one kind; shares are of the sum over all operators."""

    kind: str
    operators: int
    ms: float
    share: float
    corrected_ms: float
    corrected_share: float
    memory_bound: bool


@dataclass(frozen=True)
class Profile:
    """
    Args:
        network_ms: time of a run without profiling, the mean over the faster half, as the operators' times are.
        operators: as the runtime reports them, in order of execution.
    """

    network: Network
    network_ms: float
    operators: tuple[OperatorTime, ...]

    @property
    def operators_ms(self) -> float:
        return sum(operator.ms for operator in self.operators)

    @property
    def overhead_ms(self) -> float:
        """Of profiling, for each operator: what their sum exceeds the network's time by, in equal parts."""
        return max(0.0, self.operators_ms - self.network_ms) / len(self.operators)

    @cached_property
    def kinds(self) -> tuple[KindTime, ...]:
        """Those that occur, the slowest first."""
        kinds = [operator_kind(operator) for operator in self.operators]
        times = np.array([operator.ms for operator in self.operators])
        corrected = np.maximum(0.0, times - self.overhead_ms)
        result = []
        for kind in KINDS:
            here = np.array([k == kind for k in kinds])
            ms, corrected_ms = float(times[here].sum()), float(corrected[here].sum())
            share, corrected_share = ms / float(times.sum()), corrected_ms / float(corrected.sum())
            row = KindTime(kind, int(here.sum()), ms, share, corrected_ms, corrected_share, kind in MEMORY_BOUND)
            result += [row] if row.operators else []
        return tuple(sorted(result, key=lambda row: -row.ms))

    @property
    def memory_bound(self) -> KindTime:
        """All memory-bound kinds together."""
        rows = [row for row in self.kinds if row.memory_bound]
        names = ("operators", "ms", "share", "corrected_ms", "corrected_share")
        return KindTime("memory-bound", memory_bound=True, **{n: sum(getattr(row, n) for row in rows) for n in names})

    @property
    def corrected_ms(self) -> float:
        return sum(row.corrected_ms for row in self.kinds)

    @property
    def unknown_types(self) -> tuple[str, ...]:
        return tuple(sorted({o.type for o in self.operators if operator_kind(o) == OTHER}))

    @property
    def slowest(self) -> list[OperatorTime]:
        return sorted(self.operators, key=lambda operator: -operator.ms)[:SLOWEST]


@dataclass(frozen=True)
class Report:
    """Profiles of one model, or of networks of one space.

    Args:
        busy: other work disturbed the measurement.
    """

    title: str
    backend: str
    runtime: Runtime
    busy: bool
    profiles: tuple[Profile, ...]

    @cached_property
    def studied(self) -> tuple[tuple[Varied, Profile], ...]:
        """The profiles of a study, each with what is varied; none of one model."""
        return tuple((p.network.varied, p) for p in self.profiles if p.network.varied)

    @cached_property
    def trend(self) -> Trend | None:
        """Of the networks of a study that differ in the number of blocks only."""
        series = [(varied.blocks, profile) for varied, profile in self.studied if not varied.random]
        return Trend.of(*zip(*series, strict=True)) if series else None


@dataclass(frozen=True)
class Trend:
    """Lines through corrected times against the number of blocks of a kind, all else being equal.

    Args:
        block_ms: that one more block takes, `block_memory_bound_ms` of it in memory-bound operators.
        fewest: blocks of the kind that the space leaves in the network.
        rest_share: memory-bound share of the network with the fewest.
    """

    block_ms: float
    block_memory_bound_ms: float
    fewest: int
    rest_share: float

    @classmethod
    def of(cls, counts: Sequence[int], profiles: Sequence[Profile]) -> Trend:
        more = np.subtract(counts, fewest := min(counts))
        block_ms, rest_ms = np.polyfit(more, [p.corrected_ms for p in profiles], 1)
        memory_ms, rest_memory_ms = np.polyfit(more, [p.memory_bound.corrected_ms for p in profiles], 1)
        return cls(float(block_ms), float(memory_ms), fewest, float(rest_memory_ms / rest_ms))


def to_json(report: Report) -> dict[str, Any]:
    return {
        "title": report.title,
        "backend": report.backend,
        "runtime": asdict(report.runtime),
        "busy": report.busy,
        "trend": asdict(report.trend) if report.trend else None,
        "networks": [_profile_json(profile) for profile in report.profiles],
    }


def _profile_json(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.network.name,
        "arch": profile.network.arch,
        "varied": asdict(profile.network.varied) if profile.network.varied else None,
        "network_ms": profile.network_ms,
        "operators_ms": profile.operators_ms,
        "overhead_ms_per_operator": profile.overhead_ms,
        "memory_bound": asdict(profile.memory_bound),
        "kinds": [asdict(row) for row in profile.kinds],
        "unknown_types": profile.unknown_types,
        "operators": [{**asdict(operator), "kind": operator_kind(operator)} for operator in profile.operators],
    }


def text(report: Report) -> str:
    return f"{report.title}\n{report.runtime}\n\n{findings(report)}"


BUSY = "WARNING: the machine was busy; profile again when it is quiet"


@dataclass(frozen=True)
class Table:
    """Texts.

    Args:
        sides: how columns are aligned, "<" of words and ">" of numbers.
    """

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    sides: str


def findings(report: Report) -> str:
    first, *others = (_as_text(t) for t in tables(report))
    lines = [first, "\n".join(conclusions(report)), *others]
    return "\n\n".join(lines) + (f"\n{BUSY}" if report.busy else "")


def _as_text(t: Table) -> str:
    title = [f"{t.title}:"] if t.title else []
    return "\n".join([*title, align([t.head, *t.rows], t.sides)])


def tables(report: Report) -> list[Table]:
    """What was measured."""
    if report.studied:
        return [_study_table(report)]
    (profile,) = report.profiles
    return [_kinds(profile), _slowest(profile)]


def conclusions(report: Report) -> list[str]:
    """What it means, a sentence or two each."""
    said = _verdict(report) if report.studied else _trust(report.profiles[0])
    return [*said, *_unknown(report.profiles)]


def _kinds(profile: Profile) -> Table:
    rows = [_row(f"{row.kind}{' *' if row.memory_bound else ''}", row) for row in profile.kinds]
    head = ("kind of operator", "ms", "share", "corrected", "operators")
    return Table("", head, [*rows, _row("* memory-bound", profile.memory_bound)], "<>>>>")


def _slowest(profile: Profile) -> Table:
    rows = [
        (o.name, o.type, operator_kind(o), f"{o.ms:.4f}", f"{o.ms / profile.operators_ms:.1%}") for o in profile.slowest
    ]
    title = f"the {len(rows)} slowest of {len(profile.operators)} operators"
    return Table(title, ("operator", "type", "kind", "ms", "share"), rows, "<<<>>")


def _row(label: str, row: KindTime) -> tuple[str, ...]:
    return label, f"{row.ms:.4f}", f"{row.share:.1%}", f"{row.corrected_share:.1%}", str(row.operators)


def _trust(profile: Profile) -> list[str]:
    """How the operators' sum compares with the time of the network, and what the correction does."""
    excess = profile.operators_ms / profile.network_ms - 1
    sums = (
        f"The operators take {profile.operators_ms:.4f} ms, the network without profiling {profile.network_ms:.4f} ms "
        f"({excess:+.1%})."
    )
    if excess > 0:
        micro = 1e3 * profile.overhead_ms
        return [sums, f"Corrected: {micro:.2f} µs, the overhead of profiling, off every operator."]
    return [sums, "The rest lies between the operators, and nothing is corrected."]


def _unknown(profiles: Sequence[Profile]) -> list[str]:
    types = sorted({name for profile in profiles for name in profile.unknown_types})
    return [f"Operators of unknown kind, counted as other: {', '.join(types)}"] if types else []


def _study_table(report: Report) -> Table:
    rows = []
    for varied, profile in report.studied:
        memory = profile.memory_bound
        times = f"{profile.network_ms:.4f}", f"{memory.corrected_ms:.4f}"
        shares = f"{memory.corrected_share:.1%}", f"{memory.share:.1%}"
        rows.append((profile.network.name, str(varied.blocks), *times, *shares))
    kind = report.studied[0][0].kind
    head = ("network", f"{kind} blocks", "network, ms", "memory-bound, ms", "its share", "share as reported")
    return Table("", head, rows, "<>>>>>")


def _verdict(report: Report) -> list[str]:
    kind, trend = report.studied[0][0].kind, report.trend
    assert trend is not None
    block_ms, memory_ms = trend.block_ms, trend.block_memory_bound_ms
    less = "less" if memory_ms > 0 else "no less"
    share = "a smaller" if memory_ms > trend.rest_share * block_ms else "no smaller"
    paper = "EfficientViT, Section 2.1, of attention: less, in networks that are equally fast"
    return [
        f"One {kind} block takes {block_ms:.4f} ms, {memory_ms:.4f} ms of it in memory-bound operators.",
        f"With the fewest, {trend.fewest}, {trend.rest_share:.1%} of the largest network's time is memory-bound.",
        f"So with fewer {kind} blocks memory-bound operators take {less} time here, and {share} share ({paper}).",
    ]
