"""Which graphs a table measures, and how the costs of single blocks follow from their times.

A block that can follow itself costs the slope between chains of it, (T(8) − T(2)) / 6, in which the overhead of a run
and of its first and last operators cancels. Any other block is run next to a short chain of a reference block, or,
where none fits, next to another block's graph, and costs the difference. There the last operators cancel only where
its output is as large as the reference's; rows of blocks that downsample come out low. Every cost is thus a weighted
sum of graph times, and the weights are stored in the table.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log
from statistics import median
from typing import TYPE_CHECKING

from latency_lut.backends.base import Job, blocks_job, network_job
from latency_lut.backends.protocol import ANCHOR
from latency_lut.tables.anchor import anchor_job
from search_spaces import Arch, BlockSpec, SearchSpace, UserError, macs

if TYPE_CHECKING:
    from latency_lut.tables.table import LatencyTable

SHORT, LONG = 2, 8  # blocks in a chain
NUM_CALIBRATION = 10  # the error on held-out networks still fell from 6 to 10 and hardly beyond
MIN_CALIBRATION_FOR_OFFSET = 6


@dataclass(frozen=True)
class Plan:
    """
    Args:
        graphs: by name, the blocks that run one after another.
        terms: by block key, the cost of the block as weights of graph times.
    """

    graphs: dict[str, tuple[BlockSpec, ...]]
    terms: dict[str, dict[str, float]]

    def costs(self, times_ms: Mapping[str, float]) -> dict[str, float]:
        """Cost of each block in ms from the times of the graphs; noise can make one slightly negative."""
        return {key: sum(w * times_ms[g] for g, w in terms.items()) for key, terms in self.terms.items()}


def make_plan(space: SearchSpace) -> Plan:
    """The graphs for every block that an arch of the space can hold."""
    blocks = space.all_blocks()
    graphs: dict[str, tuple[BlockSpec, ...]] = {}
    terms: dict[str, dict[str, float]] = {}

    def add(key: str, base: str) -> None:
        name, graph = _joined(base, graphs.get(base, ()), blocks[key])
        graphs[name], terms[key] = graph, {name: 1.0, base: -1.0} if base else {name: 1.0}

    for key, block in blocks.items():
        if block.chainable:
            short, long = f"{SHORT} x {key}", f"{LONG} x {key}"
            graphs[short], graphs[long] = (block,) * SHORT, (block,) * LONG
            terms[key] = {long: 1 / (LONG - SHORT), short: -1 / (LONG - SHORT)}
    for key, block in blocks.items():
        reference = _reference(blocks, block.input_shape()) or _reference(blocks, block.output_shape())
        if not block.chainable and reference:
            add(key, f"{SHORT} x {reference.key}")
    left = [key for key in blocks if key not in terms]
    while left:  # each goes to a graph that it fits, if there is one by now
        key, base = next(((k, g) for k in left if (g := _fitting(graphs, blocks[k]))), (left[0], ""))
        left.remove(key)
        add(key, base)
    return Plan(graphs, {key: terms[key] for key in blocks})


def table_jobs(space: SearchSpace, plan: Plan) -> dict[str, Job]:
    """Everything that a table is made of, by name: the anchor, the calibration networks and the plan's graphs.

    Networks are loaded first, as in a validation: behind the 120 graphs of the nano space they got memory in which
    OpenVINO ran them 4 % slower.
    """
    graphs = {name: blocks_job(blocks) for name, blocks in plan.graphs.items()}
    return {ANCHOR: anchor_job(), **_network_jobs(space, calibration_archs(space)), **graphs}


def _network_jobs(space: SearchSpace, archs: Sequence[Arch]) -> dict[str, Job]:
    return {f"network {i}": network_job(space, arch) for i, arch in enumerate(archs)}


def calibrated_on(space: SearchSpace, table: LatencyTable) -> list[Arch]:
    return [space.from_json(network.arch) for network in table.calibration.networks]


def held_out_archs(space: SearchSpace, table: LatencyTable, count: int, seed: int) -> list[Arch]:
    """Different random archs, none of them a calibration network of the table; fewer where the space has fewer.

    Raises:
        UserError: all networks of the space are calibration networks.
    """
    archs = random_archs(space, count, seed, calibrated_on(space, table))
    if not archs:
        raise UserError(
            f"all networks of {space.name} that were found are calibration networks of the table: none is left to "
            "validate it on; give a table of a larger space"
        )
    return archs


def random_archs(space: SearchSpace, count: int, seed: int, without: Sequence[Arch] = ()) -> list[Arch]:
    """Different random archs, none of `without`; fewer where the space has fewer."""
    seen = set(without)
    rng, archs = random.Random(seed), []
    for _ in range(100 * count):
        arch = space.sample(rng)
        if arch not in seen:
            seen.add(arch)
            archs.append(arch)
        if len(archs) == count:
            break
    return archs


def validation_jobs(space: SearchSpace, table: LatencyTable, archs: Sequence[Arch]) -> dict[str, Job]:
    """The anchor; the table's calibration networks, which tell whether the machine is as fast as when it was built; and
    each network twice: two sessions of it tell how well anything could predict.
    """
    jobs = {ANCHOR: anchor_job(), **_network_jobs(space, calibrated_on(space, table))}
    for i, arch in enumerate(archs):
        jobs[f"{i} first"] = jobs[f"{i} second"] = network_job(space, arch)
    return jobs


def transfer_jobs(space: SearchSpace, archs: Sequence[Arch]) -> dict[str, Job]:
    """The anchor, and the networks by whose times a table is transferred to another device."""
    return {ANCHOR: anchor_job(), **_network_jobs(space, archs)}


def _reference(blocks: Mapping[str, BlockSpec], shape: tuple[int, ...]) -> BlockSpec | None:
    """The chainable block of median size that takes and gives this shape."""
    fitting = [b for b in blocks.values() if b.chainable and b.input_shape() == shape]
    return sorted(fitting, key=lambda b: (b.macs, b.key))[len(fitting) // 2] if fitting else None


def _fitting(graphs: Mapping[str, tuple[BlockSpec, ...]], block: BlockSpec) -> str:
    """Name of the graph of the fewest MACs that can come before or after the block; empty if there is none."""
    fits = [
        name
        for name, graph in graphs.items()
        if block.input_shape() == graph[-1].output_shape() or block.output_shape() == graph[0].input_shape()
    ]
    return min(fits, key=lambda name: (sum(block.macs for block in graphs[name]), name), default="")


def _joined(name: str, graph: tuple[BlockSpec, ...], block: BlockSpec) -> tuple[str, tuple[BlockSpec, ...]]:
    """The graph with the block before or after it, and its name; the block alone for an empty graph."""
    if not graph:
        return block.key, (block,)
    if block.input_shape() == graph[-1].output_shape():
        return f"{name} + {block.key}", (*graph, block)
    return f"{block.key} + {name}", (block, *graph)


def calibration_archs(space: SearchSpace) -> tuple[Arch, ...]:
    """The smallest and largest arch and random ones between, evenly spread by the logarithm of MACs."""
    rng = random.Random(0)
    drawn = {space.sample(rng) for _ in range(300)} - {space.smallest, space.largest}
    pool = {arch: log(macs(space, arch)) for arch in sorted(drawn, key=lambda arch: arch.values)}
    chosen = list(dict.fromkeys((space.smallest, space.largest)))
    low, high = (log(macs(space, arch)) for arch in (space.smallest, space.largest))
    for i in range(1, NUM_CALIBRATION - 1):
        if not pool:
            break
        wanted = low + (high - low) * i / (NUM_CALIBRATION - 1)
        nearest = min(pool, key=lambda arch: abs(pool[arch] - wanted))
        del pool[nearest]
        chosen.append(nearest)
    return tuple(chosen)


def fit_line(costs: Sequence[float], times_ms: Sequence[float]) -> tuple[float, float]:
    """(scale, offset_ms) with the least mean absolute relative error of scale · cost + offset_ms.

    The best such line passes through two of the points, so all pairs are tried. Unlike least squares it is not bent by
    one network that falls out of the caches. With few or equal costs: the median ratio and no offset.
    """
    candidates = [(median(t / c for c, t in zip(costs, times_ms, strict=True)), 0.0)]
    if len(costs) >= MIN_CALIBRATION_FOR_OFFSET:
        for (c1, t1), (c2, t2) in combinations(zip(costs, times_ms, strict=True), 2):
            if (t2 - t1) * (c2 - c1) > 0:
                scale = (t2 - t1) / (c2 - c1)
                candidates.append((scale, t1 - scale * c1))

    def error(line: tuple[float, float]) -> float:
        return sum(abs((line[0] * c + line[1]) / t - 1) for c, t in zip(costs, times_ms, strict=True))

    return min(candidates, key=error)
