"""The latency tables that costs are by, under the metric that each is: which files, and what was in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latency_lut.tables.table import TABLES, LatencyTable, newest_table
from nas.objective.metrics import LATENCY, shown
from search_spaces import SearchSpace, UserError
from search_spaces.command.files import sha256


def newest(space: SearchSpace, precision: str | None = None) -> dict[str, Path]:
    """The newest table that fits, of that precision if one is given; none if there is none."""
    path = newest_table(TABLES, space, precision)
    return {LATENCY: path} if path else {}


def load_tables(paths: Mapping[str, Path], space: SearchSpace) -> dict[str, LatencyTable]:
    """Says where latencies come from, and what the tables warn of.

    Raises:
        UserError: one cannot be read, or is of another space.
    """
    tables = {}
    for metric, path in paths.items():
        tables[metric] = table = LatencyTable.load(path)
        try:
            table.check(space)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        print(f"{metric}: {table.provenance.runtime}, from {path}")
        for warning in warnings({metric: table}):
            print(warning)
    return tables


def warnings(tables: Mapping[str, LatencyTable]) -> list[str]:
    """Why latencies by the tables deserve less trust, a line each."""
    return [f"{shown(metric).name}: {warning}" for metric, table in tables.items() for warning in table.warnings]


def record(paths: Mapping[str, Path]) -> dict[str, Any]:
    """As JSON."""
    return {metric: {"path": str(path), "sha256": sha256(path)} for metric, path in paths.items()}


def recorded(tables: Mapping[str, Any]) -> dict[str, Path]:
    """The files of what `record` made. UserError if one is gone or has changed."""
    for table in tables.values():
        path = Path(table["path"])
        if path.exists() and not path.is_file():  # a device, say, that can be read for ever
            raise UserError(f"cannot read {path}: it is no file; give the table that was searched with")
        if table["sha256"] not in (None, sha256(path)):  # None: of old results
            raise UserError(f"{table['path']} has changed since it was searched with; give the one that it was")
    return {metric: Path(table["path"]) for metric, table in tables.items()}
