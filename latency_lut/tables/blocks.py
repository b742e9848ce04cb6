"""What every block of a table costs, and how that is said in text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from latency_lut.tables.placement import CPU, of_row, shares_text
from latency_lut.tables.table import LatencyTable, Row
from latency_lut.tables.text import shape_text, stage_of
from search_spaces import BlockSpec, SearchSpace
from search_spaces.command import align


@dataclass(frozen=True)
class BlockCost:
    """A row of a table with the block that it is of.

    Args:
        stage: the place by the name of its weights, "stages.2"; the kind of blocks that are in no stage.
        width: channels of the output, or of the input where the output is of classes.
        median_ms: None where it came out below 0.
        spread: interquartile range of the samples of its graphs, combined as the row combines them, over `min_ms`;
            None for a row of 0.
        ms_per_mmac: over a million multiply-accumulates; None for a block without any.
        devices: `Session.devices` of the graphs that hold the block.
    """

    stage: str
    kind: str
    key: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    detail: str
    width: int
    min_ms: float
    median_ms: float | None
    spread: float | None
    macs: int
    num_params: int
    ms_per_mmac: float | None
    devices: dict[str, float]


def block_costs(table: LatencyTable, space: SearchSpace) -> list[BlockCost]:
    """The rows of the table in the order of execution."""
    return [_block_cost(table, block, table.rows[key]) for key, block in space.all_blocks().items()]


def _block_cost(table: LatencyTable, block: BlockSpec, row: Row) -> BlockCost:
    return BlockCost(
        stage=stage_of(block),
        kind=block.kind,
        key=block.key,
        input_shape=block.input_shape(),
        output_shape=block.output_shape(),
        detail=block.detail,
        width=block.num_channels,
        min_ms=row.min_ms,
        median_ms=row.median_ms or None,
        spread=_spread_ms(table, row) / row.min_ms if row.min_ms else None,
        macs=block.macs,
        num_params=block.num_params,
        ms_per_mmac=row.min_ms / block.macs * 1e6 if block.macs else None,
        devices=of_row(row.terms, {name: table.graphs[name].devices for name in row.terms}),
    )


def _spread_ms(table: LatencyTable, row: Row) -> float:
    quartiles = {name: np.percentile(table.graphs[name].samples_ms, (25, 75)) for name in row.terms}
    return sqrt(sum((weight * np.ptp(quartiles[name])) ** 2 for name, weight in row.terms.items()))


LEGEND = (
    "ms: the minimum, which predictions use; median: - where it came out below 0; "
    "spread: interquartile range of the samples, of the minimum"
)


def block_table(costs: Sequence[BlockCost]) -> tuple[list[tuple[str, ...]], str]:
    """The headings and a row for each block, and how columns are aligned: "<" or ">"."""
    head = ("stage", "block", "in", "out", "", "ms", "median", "spread", "MMACs", "params", "ms/MMAC")
    rows = [head, *map(_cells, costs)]
    sides = "<<<<<>>>>>>"
    if any(cost.devices.keys() - {CPU} for cost in costs):
        devices = ["device", *(shares_text(cost.devices) for cost in costs)]
        rows = [(*row, device) for row, device in zip(rows, devices, strict=True)]
        sides += "<"
    return rows, sides


def block_text(costs: Sequence[BlockCost]) -> str:
    """The blocks as lines, and what their columns mean."""
    return f"{align(*block_table(costs))}\n\n{LEGEND}"


def _cells(cost: BlockCost) -> tuple[str, ...]:
    return (
        cost.stage,
        cost.kind,
        shape_text(cost.input_shape),
        shape_text(cost.output_shape),
        cost.detail,
        f"{cost.min_ms:.4f}",
        "-" if cost.median_ms is None else f"{cost.median_ms:.4f}",
        "-" if cost.spread is None else f"{cost.spread:.1%}",
        f"{cost.macs / 1e6:,.3f}",
        f"{cost.num_params:,}",
        "-" if cost.ms_per_mmac is None else f"{cost.ms_per_mmac:.4f}",
    )
