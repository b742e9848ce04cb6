"""Tables measured on this machine, or made of what was measured elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latency_lut.backends.base import Backend, Job, Runtime
from latency_lut.backends.protocol import ANCHOR, Measurement, Settings, Timing, check_times
from latency_lut.backends.registry import Target
from latency_lut.measurement.journal import Journal
from latency_lut.measurement.manifest import MEASURE, Result, check_jobs
from latency_lut.measurement.sessions import measure_sessions, now, prepare_all
from latency_lut.tables.of_run import SpaceFlags
from latency_lut.tables.placement import of_blocks
from latency_lut.tables.plan import Plan, calibration_archs, fit_line, make_plan, table_jobs
from latency_lut.tables.table import (
    SCHEMA,
    TABLES,
    Calibration,
    CalibrationNetwork,
    Graph,
    LatencyTable,
    Provenance,
    Row,
)
from search_spaces import SearchSpace, UserError, get_space
from search_spaces.command import flag, flags_given, spell
from search_spaces.command.files import slug
from search_spaces.deployed import FORM

MODULE = "latency_lut.build"
PROTOCOL = (
    "fastest runs in shuffled interleaved rounds; slopes of chains 2 to 8; others by difference to a reference chain"
)


@dataclass(frozen=True)
class BuildConfig(SpaceFlags, Target):
    samples: int = flag(40, "undisturbed samples of every graph", minimum=2, maximum=10_000)
    from_: str | None = flag(None, "result of latency_lut.measure to make the table of, instead of measuring")
    out: str | None = flag(None, "the table's file (default: in runs/tables, named after what was measured)")
    resume: bool = flag(True, "go on with an interrupted build of the same settings")


def build_table(config: BuildConfig) -> Path:
    """Measures a table, or takes over a result, and returns the table's path.

    Raises:
        UserError: unknown space, bad size, a runtime that does not run here, an unfinished build of other settings, a
            result of something else, or a file that cannot be written.
    """
    if config.from_ is not None:
        return _take_over(config, Path(config.from_))
    config = config.of_run()  # the table's own command needs no run
    space, backend = config.search_space(), config.make_backend()
    out = table_file(config.out, space, config.slug(backend))
    build(space, backend, backend.settings(config.samples), out, resume=config.resume, command=spell(MODULE, config))
    return out


def build(
    space: SearchSpace, backend: Backend, settings: Settings, out: Path, *, resume: bool = True, command: str = ""
) -> LatencyTable:
    """Measures every block of the space and writes the table to `out`; progress goes to stderr."""
    plan = make_plan(space)
    jobs = table_jobs(space, plan)
    with Journal.kept(out, resume, _facts(space, jobs), backend, settings) as journal:
        sessions = prepare_all(jobs, backend)
        measured = measure_sessions(sessions, backend, settings, journal)
        devices = {name: session.devices for name, session in sessions.items()}
        runtime, tuning_s = backend.describe(), backend.tuning_s
        source = provenance(backend.name, runtime, settings, measured, command, tuning_s=tuning_s)
        try:
            table = make_table(space, plan, measured, devices, source)
        except ValueError as error:
            raise UserError(f"the samples give no table: {error}; measure again, quietly, with --no-resume") from None
        table.check(space)
        table.save(out)
    return table


def _take_over(config: BuildConfig, path: Path) -> Path:
    """A table of what was measured on another machine."""
    result = Result.load_for("table", path)
    manifest = result.manifest
    if surplus := [name for name in flags_given(config) if name not in ("--from", "--out")]:
        raise UserError(f"--from brings what was measured; leave {', '.join(surplus)} out")
    space = get_space(manifest.space, manifest.image_size, manifest.num_classes)
    plan = make_plan(space)
    check_jobs(path, manifest, table_jobs(space, plan))
    command = spell(MODULE, config)
    measured = result.measurement
    try:
        source = provenance(manifest.backend, result.runtime, result.settings, measured, command, result.date)
        table = make_table(space, plan, measured, result.devices, source)
    except ValueError as error:
        raise UserError(f"{path} gives no table: {error}; {MEASURE}") from None
    table.check(space)
    out = table_file(config.out, space, result.runtime.slug(manifest.backend, elsewhere=True))
    table.save(out)
    return out


def table_file(chosen: str | None, space: SearchSpace, of: str) -> Path:
    """The file that `--out` names, or one in runs/tables.

    Args:
        of: what differs between one user's tables, for its name.

    Raises:
        UserError: it is no file that ends in .json.
    """
    what = slug(f"{space.name}-{space.image_size}px-{space.num_classes}c")
    out = Path(chosen) if chosen else TABLES / f"{what}-{of}.json"
    if out.is_dir() or out.suffix != ".json":
        raise UserError(f"--out is {out}; give a file that ends in .json")
    return out


def _facts(space: SearchSpace, jobs: Mapping[str, Job]) -> dict[str, Any]:
    """What samples depend on besides backend and settings."""
    graphs = repr([(name, job.blocks) for name, job in jobs.items()]).encode()
    return {
        "space": space.name,
        "image_size": space.image_size,
        "num_classes": space.num_classes,
        "graphs": hashlib.sha256(graphs).hexdigest()[:16],
    }


def provenance(
    backend: str,
    runtime: Runtime,
    settings: Settings,
    measured: Measurement,
    command: str,
    date: str | None = None,
    tuning_s: int | None = None,
) -> Provenance:
    """Of a table that is made of this measurement."""
    return Provenance(
        backend=backend,
        runtime=runtime,
        settings=settings,
        batch=1,
        protocol=PROTOCOL,
        unclean_share=measured.unclean_share,
        busy=measured.busy,
        anchor_ms=round(measured.timings[ANCHOR].min_ms, 6),
        anchor_drift=round(measured.anchor_drift, 4),
        date=date or now(),
        command=command,
        tuning_s=tuning_s,
    )


def make_table(
    space: SearchSpace,
    plan: Plan,
    measured: Measurement,
    devices: Mapping[str, dict[str, float]],
    source: Provenance,
) -> LatencyTable:
    """The table that follows from the samples."""
    timings = {name: _to_nanoseconds(timing) for name, timing in measured.timings.items()}
    minima = plan.costs({name: t.min_ms for name, t in timings.items()})
    medians = plan.costs({name: t.median_ms for name, t in timings.items()})
    rows = {key: Row(max(0.0, minima[key]), max(0.0, medians[key]), plan.terms[key]) for key in plan.terms}
    return LatencyTable(
        schema=SCHEMA,
        space=space.name,
        image_size=space.image_size,
        num_classes=space.num_classes,
        form=FORM,
        provenance=source,
        calibration=_calibrate(space, rows, timings, devices),
        clamped=tuple(key for key, cost in minima.items() if cost <= 0),
        rows=rows,
        graphs={
            name: Graph(tuple(block.key for block in blocks), timings[name].samples_ms, devices.get(name, {}))
            for name, blocks in plan.graphs.items()
        },
    )


def _calibrate(
    space: SearchSpace,
    rows: Mapping[str, Row],
    timings: Mapping[str, Timing],
    devices: Mapping[str, dict[str, float]],
) -> Calibration:
    names = {arch: f"network {i}" for i, arch in enumerate(calibration_archs(space))}
    networks = {arch: timings[name] for arch, name in names.items()}
    blocks = {arch: [(rows[block.key].terms, rows[block.key].min_ms) for block in space.lower(arch)] for arch in names}
    sums = [sum(ms for _, ms in blocks[arch]) for arch in networks]
    check_times("sum_ms", *sums)
    scale, offset_ms = fit_line(sums, [timing.min_ms for timing in networks.values()])
    measured = (
        CalibrationNetwork(
            space.to_json(arch),
            total,
            scale * total + offset_ms,
            timing.min_ms,
            timing.median_ms,
            timing.samples_ms,
            devices.get(names[arch], {}),
            of_blocks(blocks[arch], devices),
        )
        for (arch, timing), total in zip(networks.items(), sums, strict=True)
    )
    return Calibration(scale, offset_ms, tuple(measured))


def _to_nanoseconds(timing: Timing) -> Timing:
    """Rounded, so that the file is small and its rows follow from the very samples that it holds."""
    return replace(timing, samples_ms=tuple(round(ms, 6) for ms in timing.samples_ms))
