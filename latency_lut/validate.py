"""python -m latency_lut.validate: a table's predictions against networks measured now, none of which it has seen.

Bare: the newest table in runs/tables, 20 random networks. A validation that was interrupted goes on where it stopped
when the same command is given again. Beside the table's errors it shows what there is to compare them with: what is
left of them when all times are scaled by how much faster or slower the table's own calibration networks run now (heat,
other guests of the host, a new driver); the same networks measured twice (the floor that no predictor passes), the
plain sum of blocks without calibration, and MACs and parameters through a line fitted on the table's calibration
networks.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

from latency_lut.measurement.interpreter import delegate
from latency_lut.measurement.validate import MODULE, ValidateConfig, report, validate_table
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(ValidateConfig, argv, f"python -m {MODULE}", "Measure how well a table predicts.")
    if delegate(config.python, MODULE, argv):
        return
    out, result = validate_table(config)
    if config.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{report(result)}\n{out}")
    if config.run:
        print(f"next: {shlex.join(['python', '-m', 'nas.search', '--run', config.run])}")


if __name__ == "__main__":
    run(main, "the same command goes on with what was measured")
