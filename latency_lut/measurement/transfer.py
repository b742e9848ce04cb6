"""A measured table made into one for another device, by whole networks that are timed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latency_lut.backends.protocol import Measurement
from latency_lut.backends.registry import BACKENDS, Target
from latency_lut.measurement.build import provenance, table_file
from latency_lut.measurement.journal import Journal
from latency_lut.measurement.manifest import Result, check_jobs, checksum
from latency_lut.measurement.sessions import measure_sessions, prepare_all
from latency_lut.measurement.validate import Accuracy, archs_id
from latency_lut.tables.adaptation import LEAST, Adapter
from latency_lut.tables.of_run import space_of
from latency_lut.tables.plan import fit_line, transfer_jobs
from latency_lut.tables.table import (
    Calibration,
    CalibrationNetwork,
    LatencyTable,
    Provenance,
    Row,
    Transfer,
    open_table,
)
from search_spaces import Arch, SearchSpace, UserError, macs
from search_spaces.command import align, amend, flag, flags_given, spell

MODULE = "latency_lut.transfer"
PROTOCOL = "another device's rows, scaled by what whole networks take here: fastest runs in shuffled interleaved rounds"


@dataclass(frozen=True)
class TransferConfig(Target):
    table: str | None = flag(None, "the measured table's file (default: the newest in runs/tables)")
    measure: int = flag(20, "networks to time on the new device", minimum=LEAST, maximum=200)
    samples: int = flag(40, "undisturbed samples of every network", minimum=2, maximum=10_000)
    from_: str | None = flag(None, "result of latency_lut.measure to transfer by, instead of measuring")
    out: str | None = flag(None, "the new table's file (default: in runs/tables, named after what was measured)")
    resume: bool = flag(True, "go on with an interrupted transfer of the same settings")
    run: str | None = flag(None, "the run that the table is for; without --table, its newest one")
    precision: str | None = flag(None, "number format (default: the table's)")


@dataclass(frozen=True)
class Transferred:
    """
    Args:
        held_out: by predictor, agreement on the timed networks, each predicted from the others: the transferred table,
            all its blocks scaled by one line, and a line through MACs.
    """

    path: Path
    table: LatencyTable
    held_out: dict[str, Accuracy]


def transfer_table(config: TransferConfig) -> Transferred:
    """Times networks on the device that the config names, or takes their times over, and writes the table.

    Raises:
        UserError: no such table, one of another space than the run's, or one that was transferred itself; a runtime
            that does not run here; too few networks; a result of another table; flags that a result brings along; an
            unfinished transfer of other settings.
        DeviceGone: the device has been disconnected; what was measured is kept.
    """
    mine = ("--table", "--run", "--from", "--out")
    if config.from_ and (surplus := [name for name in flags_given(config) if name not in mine]):
        raise UserError(f"--from brings what was measured; leave {', '.join(surplus)} out")
    path, table, space = open_table(config.table, None if config.table else config.run)
    if config.run:
        _check_run(config.run, path, table)
    if config.from_:
        return _take_over(config, path, table, space)
    config = amend(config, precision=precision_there(table, config.backend, config.precision))
    archs = choose_archs(path, table, space, config.measure)
    backend = config.make_backend()
    runtime, settings = backend.describe(), backend.settings(config.samples)
    out = table_file(config.out, space, f"{config.slug(backend)}-transferred")
    facts = {"table": checksum(path), "networks": archs_id(space, archs)}
    with Journal.kept(out, config.resume, facts, backend, settings) as journal:
        sessions = prepare_all(transfer_jobs(space, archs), backend)
        measured = measure_sessions(sessions, backend, settings, journal)
        command, tuning_s = spell(MODULE, config), backend.tuning_s
        source = provenance(backend.name, runtime, settings, measured, command, tuning_s=tuning_s)
        made = transferred(table, path, space, archs, measured, source)
        made.table.save(out)
    return replace(made, path=out)


def _check_run(run: str, path: Path, table: LatencyTable) -> None:
    try:
        table.check(space_of(run))
    except UserError as error:
        raise UserError(f"{path} is not for {run}: {error}") from None


def _take_over(config: TransferConfig, path: Path, table: LatencyTable, space: SearchSpace) -> Transferred:
    """By networks that were timed on another machine."""
    result_path = Path(config.from_ or "")
    result = Result.load_for("transfer", result_path, path)
    manifest = result.manifest
    archs = [space.from_json(entry.arch) for entry in manifest.jobs.values() if entry.arch is not None]
    check_jobs(result_path, manifest, transfer_jobs(space, archs))
    _check_source(path, table, space, archs)
    out = table_file(config.out, space, f"{result.runtime.slug(manifest.backend, elsewhere=True)}-transferred")
    command, measured = spell(MODULE, config), result.measurement
    source = provenance(manifest.backend, result.runtime, result.settings, measured, command, result.date)
    made = transferred(table, path, space, archs, measured, source)
    made.table.save(out)
    return replace(made, path=out)


def precision_there(table: LatencyTable, backend: str, precision: str | None) -> str | None:
    """The precision to transfer to: what is asked for, else the table's own.

    Raises:
        UserError: none is asked for, and the runtime does not have the table's.
    """
    mine, kind = table.provenance.runtime.precision, BACKENDS.get(backend)
    if precision is not None or kind is None:  # an unknown runtime is refused where it is made
        return precision
    if mine not in kind.precisions:
        raise UserError(
            f"the table is of {mine}, which {backend} does not have; --precision {' or '.join(kind.precisions)} "
            "transfers it to that"
        )
    return mine


def choose_archs(path: Path, table: LatencyTable, space: SearchSpace, count: int) -> list[Arch]:
    """The networks by whose times on another device the table at `path` is best transferred to it.

    Raises:
        UserError: they are too few, or the table is a transferred one.
    """
    archs = Adapter(table, space).choose(count)
    _check_source(path, table, space, archs)
    return archs


def _check_source(path: Path, table: LatencyTable, space: SearchSpace, archs: Sequence[Arch]) -> None:
    if other := table.provenance.transferred:
        raise UserError(f"{path} was {other}; give a table whose blocks were measured with --table")
    if len(archs) < LEAST:
        raise UserError(
            f"{len(archs)} networks are too few to transfer a table by; it takes {LEAST} or more, and where "
            f"{space.name} has fewer, python -m latency_lut.build"
        )


def transferred(
    table: LatencyTable,
    path: Path,
    space: SearchSpace,
    archs: Sequence[Arch],
    measured: Measurement,
    source: Provenance,
) -> Transferred:
    """The table for the device of `source`, where `measured` are the jobs of `transfer_jobs`.

    Args:
        path: of `table`.
    """
    timings = [measured.timings[f"network {i}"] for i in range(len(archs))]
    times_ms = np.array([timing.min_ms for timing in timings])
    adapter = Adapter(table, space)
    parts = adapter.parts(archs)
    held_out = {
        "transferred table": adapter.held_out_ms(parts, times_ms),
        "all blocks by one line": _line_held_out(parts.sum(1), times_ms),
        "MACs, line": _line_held_out(np.array([macs(space, arch) for arch in archs], dtype=float), times_ms),
    }
    agreement = {name: Accuracy.of(predicted.tolist(), times_ms.tolist()) for name, predicted in held_out.items()}
    fit = adapter.best_fit(parts, times_ms)
    rows = _scaled(table, dict(zip(adapter.keys, fit.factors.tolist(), strict=True)))
    networks = (
        CalibrationNetwork(space.to_json(arch), total, total + fit.offset_ms, t.min_ms, t.median_ms, t.samples_ms)
        for arch, t, total in zip(archs, timings, (parts @ fit.factors).tolist(), strict=True)
    )
    try:
        made = replace(
            table,
            provenance=replace(
                source, protocol=PROTOCOL, transferred=_origin(table, path, len(archs), agreement["transferred table"])
            ),
            calibration=Calibration(1.0, fit.offset_ms, tuple(networks)),
            rows=rows,
            graphs={name: replace(graph, devices={}) for name, graph in table.graphs.items()},
        )
    except ValueError as error:
        raise UserError(f"the times give no table: {error}; measure again, quietly, with --no-resume") from None
    made.check(space)
    return Transferred(path, made, agreement)


def _origin(table: LatencyTable, path: Path, num_networks: int, found: Accuracy) -> Transfer:
    source = table.provenance
    errors = (found.mape, found.within_10_percent, found.spearman)
    return Transfer(source.runtime, checksum(path), source.date, num_networks, *errors)


def _scaled(table: LatencyTable, factors: Mapping[str, float]) -> dict[str, Row]:
    """The rows by key, each with its terms a factor larger."""
    scale = table.calibration.scale
    return {key: _times(row, scale * factors[key]) for key, row in table.rows.items() if key in factors}


def _times(row: Row, factor: float) -> Row:
    terms = {name: factor * weight for name, weight in row.terms.items()}
    return Row(factor * row.min_ms, factor * row.median_ms, terms)


def _line_held_out(costs: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
    """Each network's time by the line through the others'."""
    predicted = []
    for i, cost in enumerate(costs):
        scale, offset_ms = fit_line(np.delete(costs, i).tolist(), np.delete(times_ms, i).tolist())
        predicted.append(scale * cost + offset_ms)
    return np.array(predicted)


def report(made: Transferred) -> str:
    """How well the table does on the networks that it was made by, as text."""
    count = len(made.table.calibration.networks)
    rows = [(f"each of {count} networks by the others", "MAPE", "±5 %", "±10 %", "Spearman")]
    for name, found in made.held_out.items():
        rank = "-" if found.spearman is None else f"{found.spearman:.3f}"
        shares = (f"{found.within_5_percent:.0%}", f"{found.within_10_percent:.0%}")
        rows.append((name, f"{found.mape:.1%}", *shares, rank))
    return align(rows, "<>>>>")
