"""Exported models timed on the machine that they are for: needs the runtime and numpy, neither torch nor timm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from latency_lut.backends.base import FileBackend, Session
from latency_lut.backends.registry import DeviceFlags, make_backend
from latency_lut.measurement.journal import Journal
from latency_lut.measurement.manifest import EXPORT, RESULT_SCHEMA, Manifest, Result, read_folder
from latency_lut.measurement.sessions import measure_sessions, now
from search_spaces import UserError
from search_spaces.command import flag, reason, spell

MODULE = "latency_lut.measure"


@dataclass(frozen=True)
class MeasureConfig(DeviceFlags):
    folder: str = flag("blocks", "folder that latency_lut.export wrote", positional=True)
    compute_unit: str | None = flag(None, "what the runtime computes on (default: the runtime's first)")
    threads: int | None = flag(None, "threads that run one network on a CPU (default: 1)", minimum=1, maximum=1024)
    samples: int = flag(40, "undisturbed samples of every graph", minimum=2, maximum=10_000)
    out: str | None = flag(None, "the result's file (default: in the folder, named after what was measured)")
    resume: bool = flag(True, "go on with an interrupted measurement of the same settings")


def measure_folder(config: MeasureConfig) -> Path:
    """Measures all models of the folder and returns the result's path.

    Raises:
        UserError: a damaged folder, a runtime that does not run here, an unfinished measurement of other settings, a
            device that has gone.
    """
    folder = Path(config.folder)
    manifest = read_folder(folder)
    backend = make_backend(
        manifest.backend,
        config.threads,
        manifest.precision,
        config.compute_unit,
        config.device,
        benchmark_binary=config.benchmark_binary,
        cores=config.cores,
    )
    if not isinstance(backend, FileBackend):
        raise UserError(f"{folder} is of {manifest.backend}, which runs no model files; {EXPORT}")
    runtime, settings = backend.describe(), backend.settings(config.samples)
    name = f"result-{manifest.purpose}-{runtime.slug(manifest.backend, elsewhere=True)}.json"
    out = Path(config.out) if config.out else folder / name
    if out.is_dir() or out.suffix != ".json":
        raise UserError(f"--out is {out}; give a file that ends in .json")
    with Journal.kept(out, config.resume, {"manifest": manifest.id}, backend, settings) as journal:
        sessions = _load(folder, manifest, backend)
        measurement = measure_sessions(sessions, backend, settings, journal)
        devices = {name: session.devices for name, session in sessions.items()}
        command = spell(MODULE, config)
        Result(RESULT_SCHEMA, manifest, runtime, settings, measurement, devices, now(), command).save(out)
    return out


def _load(folder: Path, manifest: Manifest, backend: FileBackend) -> dict[str, Session]:
    """Sessions by name; a model that crashes the runtime itself is the one that the progress bar names."""
    sessions = {}
    with tqdm(manifest.jobs.items(), desc="loading models", disable=None, leave=False) as jobs:
        for name, entry in jobs:
            jobs.set_postfix_str(f"{entry.file}: {name}")
            try:
                sessions[name] = backend.load(folder / entry.file)
            except UserError:
                raise
            except Exception as error:  # runtimes' errors have no common base class
                raise UserError(
                    f"{backend.describe()} cannot load {folder / entry.file} ({name}): {reason(error)}; install the "
                    "version that it was exported with, or export it again for this one"
                ) from None
    return sessions
