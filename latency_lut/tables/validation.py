"""What `latency_lut.validate` found of a table, in the file beside it, as far as others read it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypedDict

from latency_lut.backends.base import Runtime
from latency_lut.tables.table import LatencyTable
from search_spaces import SearchSpace, UserError
from search_spaces.command.typed import Amount, Positive, Within, load_typed, read_typed

Rank = Annotated[float, Within(-1, 1)]
Share = Annotated[float, Within(0, 1)]


class Agreement(TypedDict):
    """Of predicted with measured times, as `latency_lut.measurement.validate.Accuracy`."""

    mape: Amount
    bias: Annotated[float, Within(-1, 1e15)]
    within_5_percent: Share
    within_10_percent: Share
    spearman: Rank | None
    kendall: Rank | None


class Predicted(TypedDict):
    """A network that the table had not seen."""

    arch: dict[str, Any]
    predicted_ms: Positive
    measured_ms: Positive


def _check_runtime(runtime: dict[str, Any]) -> None:
    read_typed(Runtime, runtime, "it")


class Validation(TypedDict):
    """Agreement by predictor, and the networks."""

    runtime: Annotated[dict[str, Any], _check_runtime]
    busy: bool
    table: Agreement
    at_this_speed: Agreement
    repeat_floor: Agreement
    uncalibrated_sum: Agreement
    macs: Agreement
    num_params: Agreement
    networks: list[Predicted]


def read_validation(table: Path) -> Validation | None:
    """The validation of the table of that file; None if there is none. UserError if it cannot be read."""
    path = table.with_suffix(".validation.json")
    if not path.exists():
        return None
    return load_typed(Validation, path, "make it again with python -m latency_lut.validate")


def validation_of(table: LatencyTable, path: Path, space: SearchSpace) -> Validation | None:
    """The validation beside the table; None if there is none, or if it is of other figures, another device or another
    space than the table's.

    Args:
        path: of the table.

    Raises:
        UserError: it cannot be read.
    """
    found = read_validation(path)
    return found if found is not None and _is_of(table, found, space) else None


def _is_of(table: LatencyTable, found: Validation, space: SearchSpace) -> bool:
    if found["runtime"] != asdict(table.provenance.runtime):
        return False
    try:
        return all(table.latency_ms(space, space.from_json(n["arch"])) == n["predicted_ms"] for n in found["networks"])
    except UserError:  # networks of another space
        return False
