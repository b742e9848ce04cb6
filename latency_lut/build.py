"""python -m latency_lut.build: measures a latency table on this machine.

Bare: the nano space, 1 thread. A build that was interrupted goes on where it stopped when the same command is given
again. Method and accuracy: `latency_lut.plan`, `latency_lut.protocol`, and `python -m latency_lut.validate`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from latency_lut.journal import Journal
from latency_lut.onnxruntime_backend import OnnxRuntimeBackend
from latency_lut.plan import ANCHOR, Plan, calibration_archs, fit_line, make_plan
from latency_lut.protocol import Backend, Clock, Measurement, Sample, Settings, SystemClock, Timing, measure
from latency_lut.table import SCHEMA, Calibration, CalibrationNetwork, Graph, LatencyTable, Provenance, Row
from search_spaces import Arch, SearchSpace, UserError, get_space
from search_spaces.command import flag, parse, run

PROTOCOL = "shuffled interleaved rounds; slopes of chains 2 to 8; others by difference to a reference chain"
TABLES = Path("runs/tables")


@dataclass(frozen=True)
class BuildConfig:
    space: str = flag("efficientformerv2-nano", "search space; python -m search_spaces lists them")
    image_size: int | None = flag(None, "height and width of the images (default: the space's own)", minimum=1)
    num_classes: int | None = flag(None, "number of classes (default: the space's own)", minimum=2)
    threads: int = flag(1, "threads that run one network", minimum=1, maximum=1024)
    samples: int = flag(40, "undisturbed samples of every graph", minimum=2, maximum=10_000)
    out: str | None = flag(None, "the table's file (default: in runs/tables, named after space, size and threads)")
    resume: bool = flag(True, "go on with an interrupted build of the same settings")


def build_table(config: BuildConfig) -> Path:
    """Measures a table on this machine with ONNX Runtime and returns its path.

    Raises:
        UserError: unknown space, bad size, an unfinished build of other settings, or a file that cannot be written.
    """
    space = get_space(config.space, config.image_size, config.num_classes)
    name = f"{space.name}-{space.image_size}px-{space.num_classes}c-{OnnxRuntimeBackend.name}-{config.threads}t.json"
    out = Path(config.out) if config.out else TABLES / name
    if out.is_dir() or out.suffix != ".json":
        raise UserError(f"--out is {out}; give a file that ends in .json")
    backend = OnnxRuntimeBackend(config.threads)
    build(space, backend, Settings(config.samples), out, resume=config.resume)
    return out


def build(
    space: SearchSpace,
    backend: Backend,
    settings: Settings,
    out: Path,
    *,
    resume: bool = True,
    clock: Clock | None = None,
) -> LatencyTable:
    """Measures every block of the space and writes the table to `out`; progress goes to stderr."""
    plan, archs = make_plan(space), calibration_archs(space)
    partial = out.with_name(f"{out.name}.partial")
    if not resume:
        partial.unlink(missing_ok=True)
    journal = Journal(partial, _settings(space, plan, archs, backend, settings))
    models = tqdm(_jobs(plan, archs).items(), desc="loading graphs", disable=None, leave=False)
    runs = {name: backend.load(_export(backend, space, job)) for name, job in models}
    done = max(map(len, journal.samples.values()), default=0)
    with tqdm(total=settings.samples, initial=done, desc="measuring rounds", disable=None, leave=False) as progress:

        def on_round(samples: dict[str, Sample]) -> None:
            journal.append(samples)
            progress.total = max(progress.total, progress.n + 1)
            progress.update()

        measured = measure(runs, settings, clock or SystemClock(), seed=done, taken=journal.samples, on_round=on_round)
    table = make_table(space, plan, archs, measured, _provenance(backend, settings, measured))
    table.check(space)
    table.save(out)
    partial.unlink()
    return table


def _jobs(plan: Plan, archs: Sequence[Arch]) -> dict[str, Any]:
    """Everything that is measured, by name: sequences of blocks, and archs of whole networks."""
    return {"anchor": ANCHOR, **plan.graphs, **{f"network {i}": arch for i, arch in enumerate(archs)}}


def _export(backend: Backend, space: SearchSpace, job: Any) -> bytes:
    return backend.export_network(space, job) if isinstance(job, Arch) else backend.export_blocks(job)


def _settings(
    space: SearchSpace, plan: Plan, archs: Sequence[Arch], backend: Backend, settings: Settings
) -> dict[str, Any]:
    """All that samples depend on: an interrupted build goes on only where none of it has changed."""
    graphs = repr((list(plan.graphs), archs)).encode()
    return {
        "schema": SCHEMA,
        "space": space.name,
        "image_size": space.image_size,
        "num_classes": space.num_classes,
        **asdict(backend.describe()),
        **asdict(settings),
        "graphs": hashlib.sha256(graphs).hexdigest()[:16],
    }


def _provenance(backend: Backend, settings: Settings, measured: Measurement) -> Provenance:
    anchor = measured.timings["anchor"].samples_ms
    quarter = max(1, len(anchor) // 4)
    return Provenance(
        **asdict(backend.describe()),
        **asdict(settings),
        batch=1,
        protocol=PROTOCOL,
        unclean_share=measured.unclean_share,
        busy=measured.busy,
        anchor_ms=round(min(anchor), 6),
        anchor_drift=round(median(anchor[-quarter:]) / median(anchor[:quarter]) - 1, 4),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def make_table(
    space: SearchSpace, plan: Plan, archs: Sequence[Arch], measured: Measurement, provenance: Provenance
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
        provenance=provenance,
        calibration=_calibrate(space, rows, archs, [timings[f"network {i}"] for i in range(len(archs))]),
        clamped=tuple(key for key, cost in minima.items() if cost <= 0),
        rows=rows,
        graphs={
            name: Graph(tuple(block.key for block in blocks), timings[name].samples_ms)
            for name, blocks in plan.graphs.items()
        },
    )


def _calibrate(
    space: SearchSpace, rows: Mapping[str, Row], archs: Sequence[Arch], timings: Sequence[Timing]
) -> Calibration:
    sums = [sum(rows[block.key].min_ms for block in space.lower(arch)) for arch in archs]
    scale, offset_ms = fit_line(sums, [timing.min_ms for timing in timings])
    networks = (
        CalibrationNetwork(
            space.to_json(arch), total, scale * total + offset_ms, timing.min_ms, timing.median_ms, timing.samples_ms
        )
        for arch, total, timing in zip(archs, sums, timings, strict=True)
    )
    return Calibration(scale, offset_ms, tuple(networks))


def _to_nanoseconds(timing: Timing) -> Timing:
    """Rounded, so that the file is small and its rows follow from the very samples that it holds."""
    return replace(timing, samples_ms=tuple(round(ms, 6) for ms in timing.samples_ms))


def summary(table: LatencyTable) -> str:
    """The table in a few lines."""
    source, calibration = table.provenance, table.calibration
    errors = [abs(n.predicted_ms / n.min_ms - 1) for n in calibration.networks]
    share = "unknown" if source.unclean_share is None else f"{source.unclean_share:.1%}"
    threads = f"{source.threads} thread{'s' if source.threads > 1 else ''}"
    lines = [
        f"{table.space} at {table.image_size} px, {len(table.rows)} blocks",
        f"{source.runtime} {source.runtime_version}, {threads}, {source.device}",
        f"latency = {calibration.scale:.4f} x sum of blocks {calibration.offset_ms:+.4f} ms",
        f"off by {sum(errors) / len(errors):.1%} on average on the {len(errors)} calibration networks",
        f"disturbed samples {share}, drift of the anchor {source.anchor_drift:+.1%}",
    ]
    if table.clamped:
        lines.append(f"{len(table.clamped)} blocks cost too little to be told from 0: {', '.join(table.clamped)}")
    if source.busy:
        lines.append("WARNING: the machine was busy; build again when it is quiet")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(BuildConfig, argv, "python -m latency_lut.build", "Measure a latency table on this machine.")
    path = build_table(config)
    print(summary(LatencyTable.load(path)))
    print(path)


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]), "the same command goes on with what was measured")
