"""python -m latency_lut.build: measures a latency table.

Bare: the nano space on this machine, ONNX Runtime, 1 thread. For the networks of a run, its image size and its classes:
    python -m latency_lut.build --run mine
A build that was interrupted goes on where it stopped when
the same command is given again. Another device: `latency_lut.export` here, `latency_lut.measure` there, and its result
becomes a table with `--from`. Method and accuracy: docs/latency.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latency_lut.measurement.build import MODULE, BuildConfig, build_table
from latency_lut.measurement.interpreter import delegate
from latency_lut.measurement.validate import next_step
from latency_lut.tables.table import LatencyTable
from latency_lut.tables.text import summary
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(BuildConfig, argv, f"python -m {MODULE}", "Measure a latency table.")
    if delegate(config.python, MODULE, argv):
        return
    path = build_table(config)
    print(summary(LatencyTable.load(path)))
    print(path)
    print(next_step(config, run=config.run) if config.run and not config.out else next_step(config, table=path))


if __name__ == "__main__":
    run(main, "the same command goes on with what was measured")
