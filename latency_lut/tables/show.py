"""A table as text or JSON, and as a page of plots beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from latency_lut.tables.blocks import BlockCost, block_costs, block_text
from latency_lut.tables.plots import table_page
from latency_lut.tables.table import LatencyTable, open_table
from latency_lut.tables.text import summary
from search_spaces import UserError
from search_spaces.command import Flags, flag
from search_spaces.command.files import write_text


@dataclass(frozen=True)
class ShowConfig(Flags):
    table: str | None = flag(None, "the table's file (default: the newest in runs/tables)", positional=True)
    sort: Literal["place", "ms"] = flag("place", "order of the blocks: of execution, or the most expensive first")
    out: str | None = flag(None, "the page's file (default: beside the table, ending in .html)")
    json: bool = flag(False, "print JSON instead of text")
    run: str | None = flag(None, "the newest table of this run's space, in place of a named one")


def show(config: ShowConfig) -> None:
    """Writes the page and prints the table."""
    path, table, space = open_table(config.table, config.run)
    out = Path(config.out) if config.out else path.with_suffix(".html")
    if out.is_dir() or out.suffix != ".html":
        raise UserError(f"--out is {out}; give a file that ends in .html")
    costs = block_costs(table, space)
    write_text(out, table_page(path.stem, origin(table), costs))
    if config.sort == "ms":
        costs.sort(key=lambda cost: -cost.min_ms)
    if config.json:
        print(json.dumps(as_json(path, table, costs, out), indent=1))
    else:
        print(f"{path}\n{origin(table)}\n\n{block_text(costs)}\n\n{out}")


def origin(table: LatencyTable) -> str:
    """The table in a few lines, when it was built and how to build it again."""
    source = table.provenance
    again = f", again with: {source.command}" if source.command else ""
    return f"{summary(table)}\n{source.settings.samples} samples of each graph, built {source.date}{again}"


def as_json(path: Path, table: LatencyTable, costs: Sequence[BlockCost], page: Path) -> dict[str, Any]:
    return {
        "table": str(path),
        "page": str(page),
        "space": table.space,
        "image_size": table.image_size,
        "form": table.form,
        "num_classes": table.num_classes,
        "provenance": asdict(table.provenance),
        "scale": table.calibration.scale,
        "offset_ms": table.calibration.offset_ms,
        "clamped": table.clamped,
        "warnings": table.warnings,
        "blocks": [asdict(cost) for cost in costs],
    }
