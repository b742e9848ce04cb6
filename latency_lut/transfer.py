"""python -m latency_lut.transfer: a measured table made into one for another device, by 20 networks timed there.

    python -m latency_lut.transfer --table OTHER.json --backend openvino

Instead of every block, 20 whole networks are timed, those that tell most of the blocks. The error that is printed, and
kept in the table, is on networks left out: each of the 20 predicted from the others. For a device elsewhere:
`latency_lut.export --transfer OTHER.json` here, `latency_lut.measure` there, and its result becomes a table with
`--from`. What was interrupted goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latency_lut.measurement.interpreter import delegate
from latency_lut.measurement.transfer import MODULE, TransferConfig, report, transfer_table
from latency_lut.measurement.validate import next_step
from latency_lut.tables.text import summary
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(TransferConfig, argv, f"python -m {MODULE}", "Transfer a latency table to another device.")
    if delegate(config.python, MODULE, argv):
        return
    made = transfer_table(config)
    print(f"{summary(made.table)}\n\n{report(made)}\n\n{made.path}")
    print(next_step(config, table=made.path))


if __name__ == "__main__":
    run(main, "the same command goes on with what was measured")
