"""The latency table: an immutable file with the cost of every block of one space on one device, and its evidence.

    latency_ms(arch) = scale · Σ rows[block.key].min_ms + offset_ms      over the blocks of `space.lower(arch)`

Rows hold minima and medians. Predictions use the minima: on a shared machine they gave 2.5 % error on held-out networks
where medians gave 4.5 %, and on a quiet one 1.4 % instead of 1.8 % (nano space, 1 thread).
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces import Arch, BlockSpec, CostTable, SearchSpace, UserError
from search_spaces.files import read_json, write_json

SCHEMA = 1
MAX_MS = 60_000.0  # no block takes a minute
REBUILD = "build a new one with python -m latency_lut.build"


@dataclass(frozen=True)
class Provenance:
    """Where the figures come from.

    Args:
        samples, min_sample_ms: clean samples of each graph, and the least duration of one.
        unclean_share: of all samples, those disturbed by other work; None where the system cannot tell.
        busy: True if other work disturbed the measurement so much that its figures deserve no trust.
        anchor_ms: minimum of a fixed graph, the same in every table of every space.
        anchor_drift: its median over the last quarter of the rounds over that of the first, minus 1.
        date: UTC, ISO 8601.
    """

    device: str
    os: str
    runtime: str
    runtime_version: str
    compute_unit: str
    precision: str
    threads: int
    batch: int
    protocol: str
    samples: int
    min_sample_ms: float
    unclean_share: float | None
    busy: bool
    anchor_ms: float
    anchor_drift: float
    date: str


@dataclass(frozen=True)
class CalibrationNetwork:
    """A whole network, measured with the table: its arch, the sum of its rows, the table's prediction, its samples."""

    arch: dict[str, Any]
    sum_ms: float
    predicted_ms: float
    min_ms: float
    median_ms: float
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """The line from sums of rows to times of whole networks, and the networks it was fitted on."""

    scale: float
    offset_ms: float
    networks: tuple[CalibrationNetwork, ...]


@dataclass(frozen=True)
class Graph:
    """A measured graph: the keys of its blocks in order, and its samples."""

    blocks: tuple[str, ...]
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """A block's cost: Σ terms[graph] · min (or median) of the graph's samples, not below 0."""

    min_ms: float
    median_ms: float
    terms: dict[str, float]


@dataclass(frozen=True)
class LatencyTable:
    """
    Args:
        rows: by `BlockSpec.key`.
        clamped: keys of the rows whose difference of minima came out below 0, which are 0 instead.
        graphs: the evidence, by name.
    """

    schema: int
    space: str
    image_size: int
    num_classes: int
    provenance: Provenance
    calibration: Calibration
    clamped: tuple[str, ...]
    rows: dict[str, Row]
    graphs: dict[str, Graph]

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Raises UserError if the file is missing, no table, of another schema, or holds impossible values."""
        try:
            data = read_json(path)
        except UserError as error:
            raise UserError(f"{error}; {REBUILD}") from None
        schema = data.get("schema") if isinstance(data, dict) else None
        if not isinstance(schema, int):
            raise UserError(f"{path} is no latency table; {REBUILD}")
        if schema != SCHEMA:
            raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA}; {REBUILD}")
        try:
            table: LatencyTable = _read(cls, data, "table")
            table._check_values()
        except ValueError as error:
            raise UserError(f"{path}: {error}; {REBUILD}") from None
        return table

    def save(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    def _check_values(self) -> None:
        """ValueError on a value that no measurement can give."""
        if not 0 < self.calibration.scale < 100 or abs(self.calibration.offset_ms) > MAX_MS:
            raise ValueError(f"calibration is {self.calibration.scale} · sum + {self.calibration.offset_ms} ms")
        for key, row in self.rows.items():
            for name in ("min_ms", "median_ms"):
                if not 0 <= getattr(row, name) <= MAX_MS:
                    raise ValueError(f"{name} of {key} is {getattr(row, name)}; a time lies from 0 to {MAX_MS:.0f}")
            if row.min_ms == 0 and key not in self.clamped:
                raise ValueError(f"min_ms of {key} is 0 though its measurement was not")

    def check(self, space: SearchSpace) -> None:
        """Raises UserError unless the table predicts every arch of `space`."""
        for name, mine, theirs in (
            ("space", self.space, space.name),
            ("image size", self.image_size, space.image_size),
            ("number of classes", self.num_classes, space.num_classes),
        ):
            if mine != theirs:
                raise UserError(f"the table's {name} is {mine}, not {theirs}; {REBUILD}")
        if missing := [key for key in space.all_blocks() if key not in self.rows]:
            listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise UserError(f"the table lacks {len(missing)} blocks of {space.name}: {listed}; {REBUILD}")
        if (smallest := self.latency_ms(space, space.smallest)) <= 0:
            raise UserError(f"the table predicts {smallest:.3g} ms for the smallest network; {REBUILD}")

    def latency_ms(self, space: SearchSpace, arch: Arch) -> float:
        """Predicted minimum time of one run; UserError if a block is not in the table."""
        total = 0.0  # summed one by one, as `predictor` does: Python's sum compensates and would differ in the last bit
        for block in space.lower(arch):
            total += self._cost(block)
        return self.calibration.scale * total + self.calibration.offset_ms

    def predictor(self, space: SearchSpace) -> Callable[[np.ndarray], np.ndarray]:
        """A function from (archs, choices) positions of `space.encode` to (archs,) ms, each equal to `latency_ms`.

        Raises:
            UserError: the table does not fit the space.
        """
        self.check(space)
        costs = CostTable(space, self._cost)
        return lambda encoded: self.calibration.scale * costs(encoded) + self.calibration.offset_ms

    def _cost(self, block: BlockSpec) -> float:
        if block.key not in self.rows:
            raise UserError(f"the table has no block {block.key}; {REBUILD}")
        return self.rows[block.key].min_ms


def table_paths(folder: Path) -> list[Path]:
    """Files of tables in the folder, newest first."""
    paths = [path for path in folder.glob("*.json") if not path.name.endswith(".validation.json")]
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def newest_table(folder: Path, space: SearchSpace) -> Path | None:
    """The newest table in the folder that fits the space; None if there is none."""
    for path in table_paths(folder):
        try:
            LatencyTable.load(path).check(space)
        except UserError:
            continue
        return path
    return None


def _read(hint: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as the type `hint`; ValueError, naming the place, if it is of another shape or not finite."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else _read(arguments[0], value, where)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            raise ValueError(f"{where} must have the fields {', '.join(hints)}")
        return hint(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()})  # type: ignore[operator]
    if origin is dict and isinstance(value, dict):
        return {name: _read(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], item, f"{where}.{i}") for i, item in enumerate(value))
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ValueError(f"{where} is {value!r}, not a valid {getattr(origin or hint, '__name__', hint)}")
