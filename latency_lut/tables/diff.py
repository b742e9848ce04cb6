"""How two tables of one space differ: how they were made, what blocks cost in each, how they order networks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import Any

import numpy as np

from latency_lut.tables.plan import random_archs
from latency_lut.tables.table import LatencyTable, open_table
from latency_lut.tables.text import heading
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import Flags, align, flag

REBUILD_BAR = 0.03  # median difference of the blocks of two builds on one quiet machine
WEIGHTY = 0.01  # of a typical network's latency; cheaper blocks hardly matter, and their ratios are mostly noise
LEAST = f"{WEIGHTY:.0%} or more of a network"
SHOWN_BLOCKS, SHOWN_MOVES, SHOWN_SWAPS = 10, 5, 3  # in the text
NUM_SWAPS = 10  # in the JSON
# Fields of the provenance that are no conditions: what was measured, and what differs between any two builds.
NO_CONDITIONS = ("unclean_share", "busy", "anchor_ms", "anchor_drift", "date", "command")


@dataclass(frozen=True)
class DiffConfig(Flags):
    a: str | None = flag(None, "a table's file", positional=True)
    b: str | None = flag(None, "another table of the same space", positional=True)
    num_archs: int = flag(200, "random networks to compare the tables on", minimum=3, maximum=2000)
    seed: int = flag(0, "which random networks")
    json: bool = flag(False, "print JSON instead of text")


@dataclass(frozen=True)
class BlockDiff:
    """
    Args:
        ratio: B / A; None where the cost is 0 in one of them.
        relative: `ratio` over the median of all blocks: above 1 where B is slower at it than at others.
        weighty: whether it is at least `WEIGHTY` of the median network's latency, in A or in B.
        rank_a, rank_b: 1 is the most expensive block.
    """

    key: str
    kind: str
    a_ms: float
    b_ms: float
    ratio: float | None
    relative: float | None
    weighty: bool
    rank_a: int
    rank_b: int


@dataclass(frozen=True)
class Ratios:
    """B / A of several blocks.

    Args:
        low, high: 5th and 95th percentile.
        difference: median of |B / A - 1|.
    """

    count: int
    median: float
    low: float
    high: float
    difference: float

    @classmethod
    def of(cls, blocks: Iterable[BlockDiff]) -> Ratios | None:
        """None if no block has a ratio."""
        ratios = np.array([block.ratio for block in blocks if block.ratio is not None])
        if not len(ratios):
            return None
        low, median, high = np.percentile(ratios, (5, 50, 95)).tolist()
        return cls(len(ratios), median, low, high, float(np.median(abs(ratios - 1))))


@dataclass(frozen=True)
class Swap:
    """Two networks, as JSON: `first` is the faster one by A and the slower one by B.

    Args:
        a_ms, b_ms: times of (first, second).
        kind: of the blocks that turn the order the most.
    """

    first: dict[str, Any]
    second: dict[str, Any]
    a_ms: tuple[float, float]
    b_ms: tuple[float, float]
    kind: str


@dataclass(frozen=True)
class ArchDiff:
    """The tables' predictions of random networks.

    Args:
        ratio: median of B / A.
        spearman, kendall: rank correlation; None where a table predicts one time for all.
        swapped: share of all pairs of networks that the tables order differently.
        swaps: the pairs that both tables tell apart most clearly, no network in two of them.
    """

    count: int
    ratio: float
    spearman: float | None
    kendall: float | None
    swapped: float
    swaps: tuple[Swap, ...]


@dataclass(frozen=True)
class Diff:
    """
    Args:
        conditions: what differs in how the tables were made, as (A's, B's).
        anchor_ratio: B / A of the graph that is the same in every table.
        blocks: in the order of execution.
    """

    conditions: dict[str, tuple[Any, Any]]
    anchor_ratio: float
    all_blocks: Ratios | None
    weighty_blocks: Ratios | None
    kinds: dict[str, Ratios]
    block_spearman: float | None
    blocks: tuple[BlockDiff, ...]
    archs: ArchDiff


def compare(a: LatencyTable, b: LatencyTable, space: SearchSpace, archs: Sequence[Arch]) -> Diff:
    """B beside A, both of `space`."""
    encoded = space.encode(archs)
    a_ms, b_ms = a.predictor(space)(encoded), b.predictor(space)(encoded)
    blocks = _compare_blocks(a, b, space, *(WEIGHTY * float(np.median(ms)) for ms in (a_ms, b_ms)))
    by_kind = {kind: Ratios.of(x for x in blocks if x.kind == kind) for kind in dict.fromkeys(x.kind for x in blocks)}
    conditions_a, conditions_b = _conditions(a), _conditions(b)
    return Diff(
        conditions={k: (v, conditions_b[k]) for k, v in conditions_a.items() if v != conditions_b[k]},
        anchor_ratio=b.provenance.anchor_ms / a.provenance.anchor_ms,
        all_blocks=Ratios.of(blocks),
        weighty_blocks=Ratios.of(block for block in blocks if block.weighty),
        kinds={kind: ratios for kind, ratios in by_kind.items() if ratios},
        block_spearman=_rank_correlations([x.a_ms for x in blocks], [x.b_ms for x in blocks])[0],
        blocks=tuple(blocks),
        archs=_compare_archs(a, b, space, archs, a_ms, b_ms),
    )


def _conditions(table: LatencyTable) -> dict[str, Any]:
    source = asdict(table.provenance) | {"transferred": str(table.provenance.transferred or "no")}
    nested = {**source.pop("runtime"), **source.pop("settings")}
    return {**nested, **{name: value for name, value in source.items() if name not in NO_CONDITIONS}}


def _compare_blocks(
    a: LatencyTable, b: LatencyTable, space: SearchSpace, least_a_ms: float, least_b_ms: float
) -> list[BlockDiff]:
    blocks = space.all_blocks()
    costs = {key: (a.rows[key].min_ms, b.rows[key].min_ms) for key in blocks}
    ratios = {key: b_ms / a_ms for key, (a_ms, b_ms) in costs.items() if a_ms and b_ms}
    middle = float(np.median(list(ratios.values()))) if ratios else 1.0
    rank_a, rank_b = (_ranks({key: pair[side] for key, pair in costs.items()}) for side in (0, 1))
    return [
        BlockDiff(
            key=key,
            kind=block.kind,
            a_ms=costs[key][0],
            b_ms=costs[key][1],
            ratio=ratios.get(key),
            relative=ratios[key] / middle if key in ratios else None,
            weighty=costs[key][0] >= least_a_ms or costs[key][1] >= least_b_ms,
            rank_a=rank_a[key],
            rank_b=rank_b[key],
        )
        for key, block in blocks.items()
    ]


def _ranks(costs: dict[str, float]) -> dict[str, int]:
    return {key: rank for rank, key in enumerate(sorted(costs, key=lambda key: -costs[key]), start=1)}


def _compare_archs(
    a: LatencyTable, b: LatencyTable, space: SearchSpace, archs: Sequence[Arch], a_ms: np.ndarray, b_ms: np.ndarray
) -> ArchDiff:
    a_log, b_log = np.log(a_ms), np.log(b_ms)
    a_apart, b_apart = a_log - a_log[:, None], b_log - b_log[:, None]  # above 0 where the column's network is slower
    swapped = (a_apart > 0) & (b_apart < 0)  # each pair once, the faster by A first
    clarity = np.where(swapped, np.minimum(a_apart, -b_apart), 0.0)
    swaps: list[Swap] = []
    while len(swaps) < NUM_SWAPS and clarity.max() > 0:
        i, j = map(int, np.unravel_index(clarity.argmax(), clarity.shape))
        swaps.append(_swap(a, b, space, archs[i], archs[j]))
        for taken in (i, j):
            clarity[taken], clarity[:, taken] = 0.0, 0.0
    pairs = len(archs) * (len(archs) - 1) / 2
    spearman, kendall = _rank_correlations(a_ms, b_ms)
    ratio = float(np.median(b_ms / a_ms))
    return ArchDiff(len(archs), ratio, spearman, kendall, int(swapped.sum()) / pairs, tuple(swaps))


def _swap(a: LatencyTable, b: LatencyTable, space: SearchSpace, first: Arch, second: Arch) -> Swap:
    a_ms, b_ms = ((table.latency_ms(space, first), table.latency_ms(space, second)) for table in (a, b))
    turn: dict[str, float] = {}  # of the first network's lead, by kind
    for sign, arch in ((1, first), (-1, second)):
        for block in space.lower(arch):
            by_a, by_b = (table.calibration.scale * table.rows[block.key].min_ms for table in (a, b))
            turn[block.kind] = turn.get(block.kind, 0.0) + sign * (by_b / b_ms[0] - by_a / a_ms[0])
    return Swap(space.to_json(first), space.to_json(second), a_ms, b_ms, max(turn, key=lambda kind: turn[kind]))


def _rank_correlations(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray
) -> tuple[float | None, float | None]:
    """Spearman's and Kendall's; None where all values of one are equal."""
    from scipy.stats import kendalltau, spearmanr

    if len(set(a)) == 1 or len(set(b)) == 1:
        return None, None
    return float(spearmanr(a, b).statistic), float(kendalltau(a, b).statistic)


# ---- text


def report(diff: Diff) -> str:
    """The comparison as text."""
    sections = (_condition_lines, _ratio_lines, _extreme_lines, _rank_lines, _arch_lines)
    return "\n\n".join("\n".join(section(diff)) for section in sections)


def _condition_lines(diff: Diff) -> Iterator[str]:
    if diff.conditions:
        yield align([("differs", "A", "B"), *((k, str(a), str(b)) for k, (a, b) in diff.conditions.items())], "<<<")
    else:
        yield "made in the same way"
    yield f"the anchor takes {diff.anchor_ratio:.3f} times as long in B as in A"


def _ratio_lines(diff: Diff) -> Iterator[str]:
    head = ("B / A", "blocks", "median", "5 %", "95 %", "off by")
    named = {"all blocks": diff.all_blocks, f"those that are {LEAST}": diff.weighty_blocks, **diff.kinds}
    rows = [
        (name, str(r.count), f"{r.median:.3f}", f"{r.low:.3f}", f"{r.high:.3f}", f"{r.difference:.1%}")
        for name, r in named.items()
        if r
    ]
    yield align([head, *rows], "<>>>>>")
    yield f"off by: median of |B / A - 1|; at most {REBUILD_BAR:.0%} between two builds on one quiet machine"
    if unknown := [block.key for block in diff.blocks if block.ratio is None]:
        yield f"{len(unknown)} blocks without a ratio, as one table has 0 for them: {', '.join(unknown)}"


def _extreme_lines(diff: Diff) -> Iterator[str]:
    """Of the blocks that matter."""
    rated = [(block, block.relative) for block in diff.blocks if block.weighty and block.relative is not None]
    if all(abs(relative - 1) < 1e-9 for _, relative in rated):
        yield "every block has the same ratio"
        return
    rated.sort(key=lambda item: -abs(log(item[1])))
    rows = [
        (block.key, f"{block.a_ms:.4f}", f"{block.b_ms:.4f}", f"{block.ratio:.3f}", f"{relative - 1:+.1%}")
        for block, relative in rated[:SHOWN_BLOCKS]
    ]
    yield align([(f"differ most, of those that are {LEAST}", "A ms", "B ms", "B / A", "to median"), *rows], "<>>>>")


def _rank_lines(diff: Diff) -> Iterator[str]:
    yield f"order of the blocks by cost: Spearman {_rank(diff.block_spearman)}"
    moved = sorted((x for x in diff.blocks if x.rank_a != x.rank_b), key=lambda x: -abs(x.rank_a - x.rank_b))
    if moved:
        rows = [(x.key, f"{x.rank_a}", f"{x.rank_b}") for x in moved[:SHOWN_MOVES]]
        yield align([("moved most", "rank in A", "in B"), *rows], "<>>")


def _arch_lines(diff: Diff) -> Iterator[str]:
    archs = diff.archs
    yield (
        f"{archs.count} random networks: B / A {archs.ratio:.3f} in the median, Spearman {_rank(archs.spearman)}, "
        f"Kendall {_rank(archs.kendall)}; {archs.swapped:.1%} of the pairs swap order"
    )
    for swap in archs.swaps[:SHOWN_SWAPS]:
        (a1, a2), (b1, b2) = swap.a_ms, swap.b_ms
        apart = f"A {a1:.4f} < {a2:.4f} ms ({a2 / a1 - 1:+.1%}), B {b1:.4f} > {b2:.4f} ms ({b2 / b1 - 1:+.1%})"
        yield f"{apart}, mostly because of {swap.kind}:"
        yield from (f"  {json.dumps(arch, separators=(',', ':'))}" for arch in (swap.first, swap.second))


def _rank(correlation: float | None) -> str:
    return "-" if correlation is None else f"{correlation:.4f}"


def diff_tables(config: DiffConfig) -> None:
    """Prints the comparison.

    Raises:
        UserError: fewer than two tables, tables of different spaces, or of one that has a single network.
    """
    if config.a is None or config.b is None:
        raise UserError("two tables are compared; give their files: python -m latency_lut.diff A.json B.json")
    (a_path, a, space), (b_path, b, other) = open_table(config.a), open_table(config.b)
    a_of, b_of = (
        f"{path} is of {t.space} at {t.image_size} px for {t.num_classes} classes"
        for path, t in ((a_path, a), (b_path, b))
    )
    if (space.name, space.image_size, space.num_classes) != (other.name, other.image_size, other.num_classes):
        raise UserError(f"{a_of}, {b_of}; give two tables of the same")
    archs = random_archs(space, config.num_archs, config.seed)
    if len(archs) < 2:
        raise UserError(
            f"{space.name} has one network only: there is no order to compare; give tables of a larger space"
        )
    diff = compare(a, b, space, archs)
    if config.json:
        tables = {
            name: {
                "table": str(path),
                "runtime": asdict(table.provenance.runtime),
                "busy": table.provenance.busy,
                "warnings": table.warnings,
                "date": table.provenance.date,
            }
            for name, path, table in (("a", a_path, a), ("b", b_path, b))
        }
        print(json.dumps({**tables, **asdict(diff)}, indent=1))
        return
    for name, path, table in (("A", a_path, a), ("B", b_path, b)):
        print(f"{name} {heading(path, table)}, measured {table.provenance.date}")
    print(f"\n{report(diff)}")
    for name, table in (("A", a), ("B", b)):
        for warning in table.warnings:
            print(f"{name}: {warning}")
