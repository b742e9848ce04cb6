"""python -m latency_lut.export: the models behind a table as files, to be measured on another machine.

Bare: those of the nano space as Core ML packages, in blocks/; with --run those of a run's networks. With --validate
TABLE: random networks that the table has not seen. The folder goes to the machine that has the device, where
`python -m latency_lut.measure` needs neither torch nor timm; its result comes back as one file, for
`latency_lut.build --from` or `latency_lut.validate --from`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from latency_lut.measurement.export import ExportConfig, as_the_table, export
from latency_lut.measurement.interpreter import delegate
from search_spaces.command import parse, run

MODULE = "latency_lut.export"


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(ExportConfig, argv, f"python -m {MODULE}", "Write a table's models to measure them elsewhere.")
    if delegate(config.python, MODULE, argv):
        return
    manifest = export(config)
    out = Path(config.out)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    files = len({entry.file for entry in manifest.jobs.values()})
    print(f"{files} models of {manifest.space}, {manifest.backend} {manifest.precision}, {size / 1e6:.1f} MB, in {out}")
    print(f"on the device's machine: python -m latency_lut.measure {out}{as_the_table(config)}")


if __name__ == "__main__":
    run(main)
