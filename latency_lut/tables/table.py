"""The latency table: an immutable file with the cost of every block of one space on one device, and its evidence.

    latency_ms(arch) = scale · Σ rows[block.key].min_ms + offset_ms      over the blocks of `space.lower(arch)`

Rows hold minima and medians of the samples. Predictions use the minima: on a noisy host tables from them were off by
0.8 % (ONNX Runtime) and 4.8 % (PyTorch) on networks measured some minutes later, from medians by 3.0 and 8.3 % (nano
space, 1 thread).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from latency_lut.backends.base import Runtime
from latency_lut.backends.protocol import MAX_DRIFT, MAX_MS, Settings, check_share, check_times
from latency_lut.tables.of_run import space_of
from latency_lut.tables.placement import misplaced, of_blocks
from search_spaces import Arch, BlockSpec, CostTable, SearchSpace, UserError, get_space
from search_spaces.command.files import read_json, write_json
from search_spaces.command.folders import RUNS
from search_spaces.command.typed import Amount, Count, Fraction, Within, read_typed
from search_spaces.deployed import FORM

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 4
TABLES = RUNS / "tables"
REBUILD = "build a new one with python -m latency_lut.build"


@dataclass(frozen=True)
class Transfer:
    """How a table came from another device's, and how well: as text, what every reader of the table is told.

    Args:
        runtime: of the other table.
        table: checksum of its file.
        date: when that was measured.
        num_networks: timed on the new device.
        mape: mean absolute relative error on them, each predicted from the others; a fraction.
        within_10_percent: the share of them off by no more.
        spearman: rank correlation of these predictions with the times; None where all are equal.
    """

    runtime: Runtime
    table: str
    date: str
    num_networks: int
    mape: Amount
    within_10_percent: Fraction
    spearman: Annotated[float, Within(-1, 1)] | None

    def __str__(self) -> str:
        return f"transferred from {self.runtime} by {self.num_networks} networks, held-out error {self.mape:.1%}"


@dataclass(frozen=True)
class Provenance:
    """Where the figures come from.

    Args:
        backend: by whose rules; `latency_lut.backends`.
        unclean_share: of all samples, those disturbed by other work; None where the system cannot tell.
        busy: True if other work or heat disturbed the measurement so much that its figures deserve no trust.
        anchor_ms: minimum of a fixed graph, the same in every table of every space.
        anchor_drift: `Measurement.anchor_drift`.
        date: UTC, ISO 8601.
        command: the line that builds the table again.
        transferred: None for a table whose blocks were measured on its own device.
        tuning_s: `Backend.tuning_s` of what was measured; None in older tables, too.
    """

    backend: str
    runtime: Runtime
    settings: Settings
    batch: int
    protocol: str
    unclean_share: float | None
    busy: bool
    anchor_ms: float
    anchor_drift: float
    date: str
    command: str
    transferred: Transfer | None = None
    tuning_s: Count | None = None

    def __post_init__(self) -> None:
        """ValueError on an anchor that took no time, or a share that is none."""
        check_times("anchor_ms", self.anchor_ms)
        check_share("unclean_share", self.unclean_share)


@dataclass(frozen=True)
class CalibrationNetwork:
    """A whole network, measured with the table: its arch, the sum of its rows, the table's prediction, its samples.

    Args:
        devices: `Session.devices` of the network.
        expected_devices: what its blocks let expect of these.
    """

    arch: dict[str, Any]
    sum_ms: float
    predicted_ms: float
    min_ms: float
    median_ms: float
    samples_ms: tuple[float, ...]
    devices: dict[str, float] = field(default_factory=dict)
    expected_devices: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """ValueError without samples, or on a time that no measurement can give."""
        for name in ("sum_ms", "predicted_ms", "min_ms", "median_ms"):
            check_times(name, getattr(self, name))
        check_times("samples_ms", *self.samples_ms)


@dataclass(frozen=True)
class Calibration:
    """The line from sums of rows to times of whole networks, and the networks it was fitted on."""

    scale: float
    offset_ms: float
    networks: tuple[CalibrationNetwork, ...]

    def __post_init__(self) -> None:
        """ValueError on a line that no measurement can give."""
        if not 0 < self.scale < 100 or abs(self.offset_ms) > MAX_MS:
            raise ValueError(f"it is {self.scale} · sum + {self.offset_ms} ms")
        if not self.networks:
            raise ValueError("it has no networks")


@dataclass(frozen=True)
class Graph:
    """A measured graph: the keys of its blocks in order, its samples, and `Session.devices`."""

    blocks: tuple[str, ...]
    samples_ms: tuple[float, ...]
    devices: dict[str, float]

    def __post_init__(self) -> None:
        """ValueError without samples, or on one that took no time."""
        check_times("samples_ms", *self.samples_ms)


@dataclass(frozen=True)
class Row:
    """A block's cost: Σ terms[graph] · min (or median) of the graph's samples, not below 0."""

    min_ms: float
    median_ms: float
    terms: dict[str, float]

    def __post_init__(self) -> None:
        """ValueError on a time that no measurement can give."""
        for name in ("min_ms", "median_ms"):
            if not 0 <= getattr(self, name) <= MAX_MS:
                raise ValueError(f"{name} is {getattr(self, name)}; a time lies from 0 to {MAX_MS:.0f}")


@dataclass(frozen=True)
class LatencyTable:
    """
    Args:
        form: of the networks and blocks that were timed, `search_spaces.deployed.FORM`.
        rows: by `BlockSpec.key`.
        clamped: keys of the rows whose difference of minima came out below 0, which are 0 instead.
        graphs: the evidence, by name; of a transferred table, that of the device it is from, to which its rows' terms
            are scaled.
    """

    schema: int
    space: str
    image_size: int
    num_classes: int
    form: str
    provenance: Provenance
    calibration: Calibration
    clamped: tuple[str, ...]
    rows: dict[str, Row]
    graphs: dict[str, Graph]

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Raises UserError if the file is missing, no table, of another schema, or holds impossible values."""
        try:
            data = read_json(path, nan=True)  # for all of them to be listed
        except UserError as error:
            raise UserError(f"{error}; {REBUILD}") from None
        schema = data.get("schema") if isinstance(data, dict) else None
        if not isinstance(schema, int):
            raise UserError(f"{path} is no latency table; {REBUILD}")
        if "manifest" in data:
            raise UserError(f"{path} is a measurement; python -m latency_lut.build --from {path} makes a table of it")
        if schema != SCHEMA:
            raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA}; {REBUILD}")
        try:
            return read_typed(cls, data, "table")
        except ValueError as error:
            raise UserError(f"{path}: {error}; {REBUILD}") from None

    def save(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    def __post_init__(self) -> None:
        """ValueError on rows that do not follow from the graphs, and on rows of 0 that are not said to be clamped."""
        terms = [(key, name) for key, row in self.rows.items() for name in row.terms]
        problems = [f"{key} is made of {name}, which is no graph" for key, name in terms if name not in self.graphs]
        problems = problems or [*self._wrong_rows("min_ms", min), *self._wrong_rows("median_ms", median)]
        zeros = [key for key, row in self.rows.items() if row.min_ms == 0 and key not in self.clamped]
        problems += [f"clamped lacks {key}, whose min_ms is 0" for key in zeros]
        if problems:
            raise ValueError("; ".join(problems))

    def _wrong_rows(self, name: str, of: Callable[[tuple[float, ...]], float]) -> Iterator[str]:
        """The rows whose field of that name is not the sum of their terms, a graph's time being `of` its samples."""
        times_ms = {graph: of(measured.samples_ms) for graph, measured in self.graphs.items()}
        for key, row in self.rows.items():
            total = max(0.0, sum(weight * times_ms[graph] for graph, weight in row.terms.items()))
            if not isclose(getattr(row, name), total, rel_tol=1e-6, abs_tol=1e-6):  # samples are in whole nanoseconds
                yield f"{name} of {key} is {getattr(row, name)} though its graphs give {total:.6f}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why its figures deserve less trust, a line each."""
        found = [str(self.provenance.transferred)] if self.provenance.transferred else []
        if self.provenance.busy:
            found.append("WARNING: the machine was busy when this table was measured; build it again when it is quiet")
        if abs(self.provenance.anchor_drift) > MAX_DRIFT:
            found.append(
                "WARNING: the device changed its speed while this table was measured (heat or other work); "
                "let it cool and build it again"
            )
        return (*found, *misplaced([(n.expected_devices, n.devices) for n in self.calibration.networks]))

    def expected_devices(self, space: SearchSpace, arch: Arch) -> dict[str, float]:
        """What the blocks of a network let expect of its `Session.devices`."""
        rows = [self.rows[block.key] for block in space.lower(arch)]
        graphs = {name: graph.devices for name, graph in self.graphs.items()}
        return of_blocks([(row.terms, row.min_ms) for row in rows], graphs)

    def check(self, space: SearchSpace) -> None:
        """Raises UserError unless the table predicts every arch of `space`, and was calibrated on such."""
        for name, mine, theirs in (
            ("form of networks", self.form, FORM),
            ("space", self.space, space.name),
            ("image size", self.image_size, space.image_size),
            ("number of classes", self.num_classes, space.num_classes),
        ):
            if mine != theirs:
                raise UserError(f"the table's {name} is {mine}, not {theirs}; {REBUILD}")
        if missing := [key for key in space.all_blocks() if key not in self.rows]:
            raise UserError(f"the table lacks {len(missing)} blocks of {space.name}: {', '.join(missing)}; {REBUILD}")
        if (smallest := self.latency_ms(space, space.smallest)) <= 0:
            raise UserError(f"the table predicts {smallest:.3g} ms for the smallest network; {REBUILD}")
        for i, network in enumerate(self.calibration.networks):
            try:
                space.from_json(network.arch)
            except UserError as error:
                raise UserError(f"the table's calibration.networks.{i}: {error}; {REBUILD}") from None

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

    def frame(self) -> pd.DataFrame:
        """A row for each block, by its key: minimum and median time in ms, and whether the minimum is known to be 0."""
        import pandas as pd

        rows = {key: {"min_ms": row.min_ms, "median_ms": row.median_ms} for key, row in self.rows.items()}
        found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("block")
        return found.assign(clamped=found.index.isin(self.clamped))

    def _cost(self, block: BlockSpec) -> float:
        if block.key not in self.rows:
            raise UserError(f"the table has no block {block.key}; {REBUILD}")
        return self.rows[block.key].min_ms


def table_paths(folder: Path) -> list[Path]:
    """Files of tables in the folder, newest first."""
    paths = [p for p in folder.glob("*.json") if p.is_file() and not p.name.endswith(".validation.json")]
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def find_table(path: str | None, run: str | None = None) -> Path:
    """The file that a `--table` names; else the newest in runs/tables, with `run` of those that fit its space.

    Raises:
        UserError: there is none.
    """
    if path is not None and run is not None:
        raise UserError(f"--table {path} and --run {run} name two tables; give one of them")
    if path is not None:
        return Path(path)
    if run is not None:
        return _table_of(run)
    if not (paths := table_paths(TABLES)):
        raise UserError(f"no table in {TABLES}; build one with python -m latency_lut.build, or give --table")
    return paths[0]


def _table_of(run: str) -> Path:
    if found := newest_table(TABLES, space_of(run)):
        return found
    raise UserError(f"no table in {TABLES} fits {run}; build one with python -m latency_lut.build --run {run}")


def open_table(name: str | None, run: str | None = None) -> tuple[Path, LatencyTable, SearchSpace]:
    """The table that `find_table` finds, and its space.

    Raises:
        UserError: there is none, it cannot be read, or it does not cover its space.
    """
    path = find_table(name, run)
    table = LatencyTable.load(path)
    try:
        space = get_space(table.space, table.image_size, table.num_classes)
        table.check(space)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return path, table, space


def newest_table(folder: Path, space: SearchSpace, precision: str | None = None) -> Path | None:
    """The newest table in the folder that fits the space, of that precision if one is given; None if there is none."""
    for path in table_paths(folder):
        try:
            (table := LatencyTable.load(path)).check(space)
        except UserError:
            continue
        if precision not in (None, table.provenance.runtime.precision):
            continue
        return path
    return None
