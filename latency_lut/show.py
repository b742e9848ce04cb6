"""python -m latency_lut.show: what a latency table says, as text and as a page of plots beside it.

Bare: the newest table in runs/tables. One line a block: its cheapest and its usual time, how far the samples behind
it lie apart, what it computes, and what a million multiply-accumulates cost in it. The page `<table>.html` shows the
same by stage, width and kind of block.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latency_lut.build import summary
from latency_lut.tables.plots import table_page
from latency_lut.tables.table import LatencyTable, Row, open_table
from search_spaces import BlockSpec, SearchSpace, UserError
from search_spaces.command import align, flag, parse, run
from search_spaces.command.files import write_text


@dataclass(frozen=True)
class ShowConfig:
    table: str | None = flag(None, "the table's file (default: the newest in runs/tables)", positional=True)
    sort: Literal["place", "ms"] = flag("place", "order of the blocks: of execution, or the most expensive first")
    out: str | None = flag(None, "the page's file (default: beside the table, ending in .html)")
    json: bool = flag(False, "print JSON instead of text")


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


# ---- what the commands that read tables share


def heading(path: Path, table: LatencyTable) -> str:
    """Which table it is, and of what, in one line."""
    return f"{path}: {table.space} at {table.image_size} px, {table.provenance.runtime}"


def stage_of(block: BlockSpec) -> str:
    """The place of a block in the network, by the name of its weights; its kind where that names no stage."""
    return ".".join(block.name.split(".")[:2]) if "." in block.name else block.kind


def shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


# ---- the command


def origin(table: LatencyTable) -> str:
    """The table in a few lines, when it was built and how to build it again."""
    source = table.provenance
    again = f", again with: {source.command}" if source.command else ""
    return f"{summary(table)}\n{source.settings.samples} samples of each graph, built {source.date}{again}"


def block_costs(table: LatencyTable, space: SearchSpace) -> list[BlockCost]:
    """The rows of the table in the order of execution."""
    return [_block_cost(table, block, table.rows[key]) for key, block in space.all_blocks().items()]


def _block_cost(table: LatencyTable, block: BlockSpec, row: Row) -> BlockCost:
    output_shape = block.output_shape()
    return BlockCost(
        stage=stage_of(block),
        kind=block.kind,
        key=block.key,
        input_shape=block.input_shape(),
        output_shape=output_shape,
        detail=block.detail,
        width=output_shape[0] if len(output_shape) == 3 else block.input_shape()[0],
        min_ms=row.min_ms,
        median_ms=row.median_ms or None,
        spread=_spread_ms(table, row) / row.min_ms if row.min_ms else None,
        macs=block.macs,
        num_params=block.num_params,
        ms_per_mmac=row.min_ms / block.macs * 1e6 if block.macs else None,
        devices=_devices(table, row),
    )


def _spread_ms(table: LatencyTable, row: Row) -> float:
    quartiles = {name: np.percentile(table.graphs[name].samples_ms, (25, 75)) for name in row.terms}
    return sqrt(sum((weight * np.ptp(quartiles[name])) ** 2 for name, weight in row.terms.items()))


def _devices(table: LatencyTable, row: Row) -> dict[str, float]:
    """Mean over the graphs that the row adds; those that it subtracts do not hold the block, or fewer of it."""
    shares = [table.graphs[name].devices for name, weight in row.terms.items() if weight > 0]
    names = dict.fromkeys(name for share in shares for name in share)
    return {name: sum(share.get(name, 0.0) for share in shares) / len(shares) for name in names}


def block_text(costs: Sequence[BlockCost]) -> str:
    """The blocks as lines, and what their columns mean."""
    head = ("stage", "block", "in", "out", "", "ms", "median", "spread", "MMACs", "params", "ms/MMAC")
    rows = [head, *map(_cells, costs)]
    sides = "<<<<<>>>>>>"
    if any(cost.devices for cost in costs):
        devices = ["device", *(devices_text(cost.devices) for cost in costs)]
        rows = [(*row, device) for row, device in zip(rows, devices, strict=True)]
        sides += "<"
    legend = (
        "ms: the minimum, which predictions use; median: - where it came out below 0; "
        "spread: interquartile range of the samples, of the minimum"
    )
    return f"{align(rows, sides)}\n\n{legend}"


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


def devices_text(devices: dict[str, float]) -> str:
    """'NeuralEngine', or 'NeuralEngine 83%, CPU 17%' where several are preferred; '-' where it is not known."""
    held = sorted(((share, name) for name, share in devices.items() if share >= 0.005), reverse=True)
    if len(held) == 1:
        return held[0][1]
    return ", ".join(f"{name} {share:.0%}" for share, name in held) or "-"


def as_json(path: Path, table: LatencyTable, costs: Sequence[BlockCost], page: Path) -> dict[str, Any]:
    return {
        "table": str(path),
        "page": str(page),
        "space": table.space,
        "image_size": table.image_size,
        "num_classes": table.num_classes,
        "provenance": asdict(table.provenance),
        "scale": table.calibration.scale,
        "offset_ms": table.calibration.offset_ms,
        "clamped": table.clamped,
        "blocks": [asdict(cost) for cost in costs],
    }


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(ShowConfig, argv, "python -m latency_lut.show", "Show a latency table, and plot it.")
    path, table, space = open_table(config.table)
    out = Path(config.out) if config.out else path.with_suffix(".html")
    if out.is_dir() or out.suffix != ".html":
        raise UserError(f"--out is {out}; give a file that ends in .html")
    costs = block_costs(table, space)
    write_text(out, table_page(path.stem, origin(table), costs, block_text(costs)))
    if config.sort == "ms":
        costs.sort(key=lambda cost: -cost.min_ms)
    if config.json:
        print(json.dumps(as_json(path, table, costs, out), indent=1))
    else:
        print(f"{path}\n{origin(table)}\n\n{block_text(costs)}\n\n{out}")


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
