"""A table's predictions against networks that it has not seen, measured on this machine or elsewhere."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from latency_lut.backends.base import Backend, Runtime
from latency_lut.backends.protocol import Measurement, Settings
from latency_lut.backends.registry import DeviceFlags, Target, make_backend
from latency_lut.measurement.journal import Journal
from latency_lut.measurement.manifest import Result, check_jobs, checksum
from latency_lut.measurement.sessions import measure_sessions, prepare_all
from latency_lut.tables.placement import misplaced
from latency_lut.tables.plan import calibrated_on, fit_line, held_out_archs, validation_jobs
from latency_lut.tables.table import LatencyTable, open_table
from latency_lut.tables.validation import read_validation
from search_spaces import Arch, SearchSpace, UserError, get_space, macs, num_params
from search_spaces.command import flag, flags_given, spell
from search_spaces.command.files import write_json

MODULE = "latency_lut.validate"
EXPORT = "python -m latency_lut.export --validate"


@dataclass(frozen=True)
class ValidateConfig(DeviceFlags):
    table: str | None = flag(None, "the table's file (default: the newest in runs/tables)")
    num_archs: int = flag(20, "random networks to measure", minimum=3, maximum=10_000)
    samples: int | None = flag(
        None, "undisturbed samples of every network (default: as many as the table's)", minimum=2, maximum=10_000
    )
    seed: int = flag(1, "which random networks")
    from_: str | None = flag(None, "result of latency_lut.measure to compare with, instead of measuring")
    python: str | None = flag(None, "interpreter of another environment to measure in, where the runtime is installed")
    json: bool = flag(False, "print JSON instead of text")
    resume: bool = flag(True, "go on with an interrupted validation of the same settings")
    run: str | None = flag(None, "the newest table of this run's space, in place of --table")


@dataclass(frozen=True)
class Accuracy:
    """Agreement of predicted with measured times. Fractions, not percent; ranks are None where all times are equal."""

    mape: float
    bias: float
    within_5_percent: float
    within_10_percent: float
    spearman: float | None
    kendall: float | None

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Accuracy:
        from scipy.stats import kendalltau, spearmanr

        error = np.asarray(predicted) / np.asarray(measured) - 1
        ranked = len(set(predicted)) > 1 and len(set(measured)) > 1
        return cls(
            mape=float(np.abs(error).mean()),
            bias=float(error.mean()),
            within_5_percent=float((np.abs(error) <= 0.05).mean()),
            within_10_percent=float((np.abs(error) <= 0.10).mean()),
            spearman=float(spearmanr(predicted, measured).statistic) if ranked else None,
            kendall=float(kendalltau(predicted, measured).statistic) if ranked else None,
        )


def validate(
    table: LatencyTable,
    space: SearchSpace,
    backend: Backend,
    archs: Sequence[Arch],
    settings: Settings,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Measures the networks, each in two sessions, and compares. The result is JSON."""
    table.check(space)
    sessions = prepare_all(validation_jobs(space, table, archs), backend)
    measured = measure_sessions(sessions, backend, settings, journal)
    devices = {name: session.devices for name, session in sessions.items()}
    return compare(table, space, archs, measured, backend.describe(), settings, devices)


def validate_from(table: LatencyTable, table_path: Path, path: Path) -> dict[str, Any]:
    """Compares with networks that were measured elsewhere, whose result is at `path`.

    Raises:
        UserError: the result is no validation, or of another table.
    """
    result = Result.load_for("validation", path, table_path)
    manifest = result.manifest
    space = get_space(table.space, table.image_size, table.num_classes)
    archs = [space.from_json(e.arch) for name, e in manifest.jobs.items() if name.endswith(" first")]
    if not archs:
        raise UserError(f"{path} has no networks that the table has not seen; export it again, {EXPORT} {table_path}")
    check_jobs(path, manifest, validation_jobs(space, table, archs))
    return compare(table, space, archs, result.measurement, result.runtime, result.settings, result.devices)


def compare(
    table: LatencyTable,
    space: SearchSpace,
    archs: Sequence[Arch],
    measured: Measurement,
    runtime: Runtime,
    settings: Settings,
    devices: Mapping[str, dict[str, float]],
) -> dict[str, Any]:
    """The table's predictions against `measured`, the jobs of `validation_jobs`, whose `devices` are `Session`'s."""
    minima = {name: timing.min_ms for name, timing in measured.timings.items()}
    slowdown = _slowdown(table, measured)
    times = [minima[f"{i} first"] for i in range(len(archs))]
    again = [minima[f"{i} second"] for i in range(len(archs))]
    predictors = _predictions(table, space, archs)
    placed = [devices.get(f"{i} first", {}) for i in range(len(archs))]
    expected = [table.expected_devices(space, arch) for arch in archs]
    return {
        "space": space.name,
        "image_size": space.image_size,
        "table_warnings": table.warnings,
        "table_runtime": asdict(table.provenance.runtime),
        "runtime": asdict(runtime),
        "num_archs": len(archs),
        **asdict(settings),
        "unclean_share": measured.unclean_share,
        "busy": measured.busy,
        "slowdown": slowdown,
        **{name: asdict(Accuracy.of(predicted, times)) for name, predicted in predictors.items()},
        "at_this_speed": asdict(Accuracy.of([(1 + slowdown) * ms for ms in predictors["table"]], times)),
        "repeat_floor": asdict(Accuracy.of(again, times)),
        "placement_warnings": misplaced(list(zip(expected, placed, strict=True))),
        "networks": [
            {
                "arch": space.to_json(arch),
                "predicted_ms": p,
                "measured_ms": t,
                "measured_again_ms": a,
                "devices": own,
                "expected_devices": e,
            }
            for arch, p, t, a, own, e in zip(archs, predictors["table"], times, again, placed, expected, strict=True)
        ],
    }


def _slowdown(table: LatencyTable, measured: Measurement) -> float:
    """How much longer the calibration networks take than when the table was built; the median of them, a fraction.

    Several networks tell it better than the anchor: on a busy host that one alone was off by 2 %. Minima are of equally
    many samples, for those of more are shorter.
    """
    ratios = []
    for i, network in enumerate(table.calibration.networks):
        now, then = measured.timings[f"network {i}"].samples_ms, network.samples_ms
        count = min(len(now), len(then))
        ratios.append(min(now[:count]) / min(then[:count]))
    return median(ratios) - 1


def _predictions(table: LatencyTable, space: SearchSpace, archs: Sequence[Arch]) -> dict[str, list[float]]:
    """Predicted times by each predictor: the table, its rows uncalibrated, and lines through MACs and parameters."""
    line = table.calibration
    predictions = {"table": [table.latency_ms(space, arch) for arch in archs]}
    predictions["uncalibrated_sum"] = [(ms - line.offset_ms) / line.scale for ms in predictions["table"]]
    networks = calibrated_on(space, table)
    for name, count in (("macs", macs), ("num_params", num_params)):
        scale, offset_ms = fit_line([count(space, a) for a in networks], [n.min_ms for n in line.networks])
        predictions[name] = [scale * count(space, arch) + offset_ms for arch in archs]
    return predictions


def report(result: dict[str, Any]) -> str:
    """The result as a text table."""
    lines = [
        f"{result['space']} at {result['image_size']} px: {result['num_archs']} networks that the table has not seen",
        f"{'':28}{'MAPE':>8}{'bias':>8}{'±5 %':>8}{'±10 %':>8}{'Spearman':>10}{'Kendall':>9}",
    ]
    for key, label in (
        ("table", "table"),
        ("at_this_speed", "table, at this speed"),
        ("repeat_floor", "same networks again"),
        ("uncalibrated_sum", "blocks, uncalibrated"),
        ("macs", "MACs, line"),
        ("num_params", "parameters, line"),
    ):
        row = Accuracy(**result[key])
        ranks = [f"{r:.3f}" if r is not None else "-" for r in (row.spearman, row.kendall)]
        lines.append(
            f"{label:28}{row.mape:>8.1%}{row.bias:>+8.1%}{row.within_5_percent:>8.0%}{row.within_10_percent:>8.0%}"
            f"{ranks[0]:>10}{ranks[1]:>9}"
        )
    lines.append(
        f"the calibration networks take {result['slowdown']:+.1%} longer than when the table was built; "
        "at this speed: with that taken into account"
    )
    if differing := [k for k, v in result["table_runtime"].items() if v != result["runtime"][k]]:
        there = ", ".join(f"{k} {result['table_runtime'][k]!r} (here {result['runtime'][k]!r})" for k in differing)
        lines.append(f"WARNING: the table is of another device or runtime: {there}")
    lines += [*result["table_warnings"], *result["placement_warnings"]]
    if result["busy"]:
        lines.append("WARNING: the machine was busy; validate again when it is quiet")
    return "\n".join(lines)


def validate_table(config: ValidateConfig) -> tuple[Path, dict[str, Any]]:
    """Validates the table that the config names; returns the result and the file beside the table that it is in.

    Raises:
        UserError: no such table, a runtime that does not run here, flags that a result brings along, an unfinished
            validation of other settings, or a file that cannot be written.
    """
    mine = ("--table", "--run", "--from", "--json")
    if config.from_ and (surplus := [name for name in flags_given(config) if name not in mine]):
        raise UserError(f"--from brings what was measured; leave {', '.join(surplus)} out")
    path, table, space = open_table(config.table, config.run)
    out = path.with_suffix(".validation.json")
    if config.from_:
        result = validate_from(table, path, Path(config.from_))
        _check_place(path, table, Runtime(**result["runtime"]))
        write_json(out, result)
        return out, result
    archs = held_out_archs(space, table, config.num_archs, config.seed)
    backend = backend_of(table, config)
    _check_place(path, table, backend.describe())
    settings = backend.settings(config.samples or table.provenance.settings.samples)
    facts = {"table": checksum(path), "num_archs": len(archs), "seed": config.seed, "archs": archs_id(space, archs)}
    with Journal.kept(out, config.resume, facts, backend, settings) as journal:
        result = validate(table, space, backend, archs, settings, journal)
        write_json(out, result)
    return out, result


def _check_place(path: Path, table: LatencyTable, runtime: Runtime) -> None:
    """UserError if the table at `path` has a validation on its own device, and this one is on another."""
    own = asdict(table.provenance.runtime)
    if asdict(runtime) == own:
        return
    found = read_validation(path)
    if found is not None and found["runtime"] == own:
        raise UserError(
            f"{path} is validated on its own device ({table.provenance.runtime}), this is {runtime}; "
            f"move {path.with_suffix('.validation.json')} away to keep this one in its place, or {EXPORT} {path}"
        )


def next_step(measured: Target, *, table: Path | None = None, run: str | None = None) -> str:
    """The line that says how to validate a table just measured: on the same device, in the same environment."""
    if getattr(measured, "from_", None):  # on another machine
        return f"next: {EXPORT} {shlex.quote(str(table))} --out held-out"
    flags = {name: getattr(measured, name) for name in ("device", "benchmark_binary", "cores", "python")}
    return f"next: {spell(MODULE, ValidateConfig(table=str(table) if table else None, run=run, **flags))}"


def archs_id(space: SearchSpace, archs: Sequence[Arch]) -> str:
    """Changes with the networks, or with their order."""
    return hashlib.sha256(json.dumps([space.to_json(arch) for arch in archs]).encode()).hexdigest()[:16]


def backend_of(table: LatencyTable, on: DeviceFlags | None = None) -> Backend:
    """The backend that the table was measured with, tuning as long; on this machine where no other is named."""
    runtime, on = table.provenance.runtime, on or DeviceFlags()
    return make_backend(
        table.provenance.backend,
        runtime.threads or None,
        runtime.precision,
        runtime.compute_unit,
        on.device,
        table.provenance.tuning_s,
        benchmark_binary=on.benchmark_binary,
        cores=on.cores,
    )
