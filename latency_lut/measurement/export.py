"""The models behind a table, or of networks to validate it on, as files to be measured on another machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latency_lut.backends.base import FileBackend
from latency_lut.backends.registry import make_backend
from latency_lut.measurement.manifest import Manifest, checksum, write_folder
from latency_lut.measurement.transfer import choose_archs, precision_there
from latency_lut.tables.of_run import SpaceFlags
from latency_lut.tables.plan import held_out_archs, make_plan, table_jobs, transfer_jobs, validation_jobs
from latency_lut.tables.table import LatencyTable, open_table
from search_spaces import UserError
from search_spaces.command import check_idle, flag, flags_given

DEFAULT_BACKEND = "coreml"


@dataclass(frozen=True)
class ExportConfig(SpaceFlags):
    backend: str | None = flag(None, "runtime to export for (default: coreml; with --validate, that of the table)")
    precision: str | None = flag(None, "number format (default: the runtime's first)")
    validate: str | None = flag(None, "a table's file: export networks to validate it on, for its runtime")
    transfer: str | None = flag(None, "a table's file: export networks by which to transfer it to another device")
    num_archs: int = flag(20, "networks, with --validate or --transfer", minimum=3, maximum=10_000)
    seed: int = flag(1, "which random networks, with --validate")
    out: str = flag("blocks", "the folder to write")
    python: str | None = flag(None, "interpreter of another environment to export in, where the exporter is installed")


def export(config: ExportConfig) -> Manifest:
    """Writes the folder.

    Raises:
        UserError: a runtime that has no model files, an unknown space or run, a folder of something else, flags that
            have no meaning.
    """
    if config.transfer is not None:
        return _export_transfer(config, config.transfer)
    if config.validate is None:
        backend = _file_backend(config.backend or DEFAULT_BACKEND, config.precision)
        check_idle(config, ("num_archs", "seed"), "--validate")
        space = config.of_run().search_space()
        jobs = table_jobs(space, make_plan(space))
        return write_folder(Path(config.out), jobs, backend, space, purpose="table")
    mine = ("--validate", "--num-archs", "--seed", "--out", "--python")
    if surplus := [name for name in flags_given(config) if name not in mine]:
        raise UserError(f"--validate takes these from its table; leave {', '.join(surplus)} out")
    _, table, space = open_table(config.validate)
    backend = _file_backend(table.provenance.backend, table.provenance.runtime.precision)
    jobs = validation_jobs(space, table, held_out_archs(space, table, config.num_archs, config.seed))
    what = checksum(Path(config.validate))
    return write_folder(Path(config.out), jobs, backend, space, purpose="validation", table=what)


def _export_transfer(config: ExportConfig, path: str) -> Manifest:
    """Networks of the table at `path`, for the runtime that it is to be transferred to."""
    mine = ("--transfer", "--backend", "--precision", "--num-archs", "--out", "--python")
    if surplus := [name for name in flags_given(config) if name not in mine]:
        raise UserError(f"--transfer takes these from its table; leave {', '.join(surplus)} out")
    file, table, space = open_table(path)
    name = config.backend or DEFAULT_BACKEND
    backend = _file_backend(name, precision_there(table, name, config.precision))
    jobs = transfer_jobs(space, choose_archs(file, table, space, config.num_archs))
    return write_folder(Path(config.out), jobs, backend, space, purpose="transfer", table=checksum(file))


def _file_backend(name: str, precision: str | None) -> FileBackend:
    backend = make_backend(name, precision=precision)
    if not isinstance(backend, FileBackend):
        raise UserError(f"{name} runs no model files; build and validate its tables on their own machine")
    return backend


def as_the_table(config: ExportConfig) -> str:
    """Flags of latency_lut.measure, for what is compared with a table to run as it did."""
    if config.validate is None:
        return ""
    runtime = LatencyTable.load(Path(config.validate)).provenance.runtime
    threads = f" --threads {runtime.threads}" if runtime.threads else ""
    return f" --compute-unit {runtime.compute_unit}{threads}"
